//! The daemon's end of a worker: start it, find it again, ask it, hear from it, notice its end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use host_sys::{Dialogue, DialogueError, Meeting, Pidfd, SeqPacket, process};

use super::proto::{CONFIG, Event, GroupConfig, GuestClass, MESSAGE_MAX, Message, Request, SOCKET};
use super::table::{Snapshot, Table, TableError};

/// The hidden subcommand of the multi-call binary that runs a keeper: `keeper STATE_DIR`.
pub const KEEPER_ARG: &str = "keeper";

const MEETING: Meeting =
    Meeting { keeper_arg: KEEPER_ARG, socket: SOCKET, config: CONFIG, message_max: MESSAGE_MAX };
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a worker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It refused; nothing has changed.
    #[error("{reason}")]
    Refused {
        /// The errno for the caller.
        errno: i32,
        /// Why, in words.
        reason: String,
    },
    /// It cannot be started or reached, or is gone.
    #[error(transparent)]
    Unreachable(#[from] DialogueError),
    /// Its table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl WorkerError {
    /// Gives the errno that the caller of the control tree shall see.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::Unreachable(e) => e.source.raw_os_error().unwrap_or(libc::EIO),
            Self::Table(_) => libc::EIO,
        }
    }
}

fn unreachable(what: &'static str) -> impl FnOnce(io::Error) -> WorkerError {
    move |source| WorkerError::Unreachable(DialogueError { what, source })
}

/// A group's worker and keeper, as their daemon holds them. Dropping it leaves both running.
#[derive(Debug)]
pub struct Worker {
    dialogue: Dialogue<Message>,
    table: Table,
}

impl Worker {
    /// Writes `config` into `state_dir` (which exists and is private to the daemon), starts a keeper there with the multi-call binary `exe`, and waits for its worker.
    ///
    /// `events` gets what the worker reports, from a thread of the client's own, and is dropped when the connection ends:
    /// then the worker has died (its keeper starts another one: [`Worker::connect`] again) or is done.
    ///
    /// # Errors
    /// [`WorkerError::Unreachable`], [`WorkerError::Table`].
    pub fn spawn(
        exe: &Path,
        state_dir: &Path,
        config: &GroupConfig,
        events: Sender<Event>,
    ) -> Result<Self, WorkerError> {
        Self::with(Dialogue::spawn(&MEETING, exe, state_dir, &encode(config)?, sort_into(events))?)
    }

    /// Finds the worker of the group in `state_dir`, one that is about to start included.
    ///
    /// # Errors
    /// As [`Worker::spawn`].
    pub fn connect(state_dir: &Path, events: Sender<Event>) -> Result<Self, WorkerError> {
        Self::with(Dialogue::connect(&MEETING, state_dir, sort_into(events))?)
    }

    fn with(dialogue: Dialogue<Message>) -> Result<Self, WorkerError> {
        let table = Table::open(dialogue.state_dir())?;
        Ok(Self { dialogue, table })
    }

    /// Gives the group's state directory.
    pub fn state_dir(&self) -> &Path {
        self.dialogue.state_dir()
    }

    /// Reads what the worker published last, without asking it.
    pub fn snapshot(&self) -> Snapshot {
        self.table.snapshot()
    }

    /// Reads the group's counters as published last.
    pub fn stat(&self) -> super::GroupStat {
        self.table.stat()
    }

    /// Whether somebody in the group wants to run. Asks nobody.
    pub fn is_busy(&self) -> bool {
        self.table.is_busy()
    }

    /// Gives the worker's sign of life if it is overdue for so long that its keeper should have ended it. Asks nobody.
    pub fn overdue(&self) -> Option<u64> {
        const KEEPERS_TURN: Duration = Duration::from_secs(3);
        let beat = self.table.beat();
        (beat != 0 && process::now() > beat + KEEPERS_TURN.as_nanos() as u64).then_some(beat)
    }

    /// Opens the keeper for noticing its end (`poll` for input).
    ///
    /// # Errors
    /// [`WorkerError::Unreachable`] if it is gone.
    pub fn keeper_pidfd(&self) -> Result<Pidfd, WorkerError> {
        Pidfd::open(self.table.stat().keeper_pid).map_err(unreachable("open the keeper"))
    }

    /// Takes the exit status of a keeper that this daemon has started and that has ended, so that it is no zombie. Does not wait.
    pub fn reap_keeper(&mut self) {
        self.dialogue.reap_keeper();
    }

    /// Takes in a process with all its threads.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn join(&self, pid: i32, start_time: u64) -> Result<(), WorkerError> {
        self.ask(&Request::Join { pid, start_time }, None)
    }

    /// Lets a process go, everything restored.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn leave(&self, pid: i32) -> Result<(), WorkerError> {
        self.ask(&Request::Leave { pid }, None)
    }

    /// Sets a member's guest nice, -20..=19.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn set_nice(&self, pid: i32, nice: i8) -> Result<(), WorkerError> {
        self.ask(&Request::SetNice { pid, nice }, None)
    }

    /// Sets a member's guest class.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn set_class(&self, pid: i32, class: GuestClass) -> Result<(), WorkerError> {
        self.ask(&Request::SetClass { pid, class }, None)
    }

    /// Replaces what is set of the group.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn configure(&self, config: &GroupConfig) -> Result<(), WorkerError> {
        self.dialogue.configure(&encode(config)?, || self.ask(&Request::Configure(config.clone()), None))
    }

    /// Has the worker publish everything as of now.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn sync(&self) -> Result<(), WorkerError> {
        self.ask(&Request::Sync, None)
    }

    /// Lets every member go and ends worker and keeper. The state directory is the caller's to remove.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn dissolve(&self) -> Result<(), WorkerError> {
        self.ask(&Request::Dissolve, None)
    }

    /// Nests `inner`'s group into this one: here it is one task, which `pid` (its representative) stands for.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn nest(&self, pid: i32, inner: &Self) -> Result<(), WorkerError> {
        let (outer_end, inner_end) = SeqPacket::pair().map_err(unreachable("make a socket pair"))?;
        self.ask(&Request::Nest { pid }, Some(outer_end.as_fd()))?;
        if let Err(e) = inner.ask(&Request::Gate { has_link: true }, Some(inner_end.as_fd())) {
            let _ = self.leave(pid);
            return Err(e);
        }
        Ok(())
    }

    /// Takes the group out of the one it was nested in: nobody but the host schedules it any more.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn ungate(&self) -> Result<(), WorkerError> {
        self.ask(&Request::Gate { has_link: false }, None)
    }

    fn ask(&self, request: &Request, fd: Option<BorrowedFd<'_>>) -> Result<(), WorkerError> {
        match self.dialogue.ask(&encode(request)?, fd, ANSWER_TIMEOUT)? {
            Message::Refused { errno, reason } => Err(WorkerError::Refused { errno, reason }),
            _ => Ok(()),
        }
    }
}

fn encode(message: &impl serde::Serialize) -> Result<Vec<u8>, WorkerError> {
    serde_json::to_vec(message).map_err(|e| unreachable("encode a request")(e.into()))
}

/// Reads the configuration of the group in `state_dir`.
///
/// # Errors
/// If the file is missing or no configuration.
pub fn read_config(state_dir: &Path) -> io::Result<GroupConfig> {
    Ok(serde_json::from_slice(&std::fs::read(state_dir.join(CONFIG))?)?)
}

fn sort_into(events: Sender<Event>) -> impl FnMut(&[u8]) -> Option<Message> + Send + 'static {
    move |bytes| match serde_json::from_slice(bytes) {
        Ok(Message::Event(event)) => {
            let _ = events.send(event);
            None
        }
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::warn!(%error, "unreadable message from a worker");
            None
        }
    }
}

/// An end of a nesting link, see [`super::proto::Request::Nest`].
pub type Link = OwnedFd;
/// Where a daemon hears what its workers report.
pub type Events = Receiver<Event>;
