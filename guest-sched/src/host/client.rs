//! The daemon's end of a worker: start it, find it again, ask it, hear from it, notice its end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use host_sys::{Pidfd, SeqPacket};
use nix::sys::socket::{Shutdown, shutdown};

use super::proto::{CONFIG, Event, GroupConfig, GuestClass, MESSAGE_MAX, Message, Request, SOCKET};
use super::table::{Snapshot, Table, TableError};

/// The hidden subcommand of the multi-call binary that runs a keeper: `keeper STATE_DIR`.
pub const KEEPER_ARG: &str = "keeper";

const START_TIMEOUT: Duration = Duration::from_secs(10);
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
    #[error("{what}")]
    Unreachable {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Its table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl WorkerError {
    /// Gives the errno that the caller of the control tree shall see.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::Unreachable { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::Table(_) => libc::EIO,
        }
    }
}

fn unreachable(what: &'static str) -> impl FnOnce(io::Error) -> WorkerError {
    move |source| WorkerError::Unreachable { what, source }
}

/// A group's worker and keeper, as their daemon holds them. Dropping it leaves both running.
#[derive(Debug)]
pub struct Worker {
    state_dir: PathBuf,
    socket: SeqPacket,
    table: Table,
    answers: parking::Answers,
    keeper: Option<Child>,
}

mod parking {
    use std::sync::Mutex;
    use std::sync::mpsc::Receiver;

    /// Answers in the order of the requests; one request at a time.
    #[derive(Debug)]
    pub(super) struct Answers(pub(super) Mutex<Receiver<super::Message>>);
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
        write_config(state_dir, config).map_err(unreachable("write the group's configuration"))?;
        let mut child = Command::new(exe)
            .arg(KEEPER_ARG)
            .arg(state_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(unreachable("start a keeper"))?;
        let mut worker = Self::connect_while(state_dir, events, || match child.try_wait() {
            Ok(Some(status)) => Err(io::Error::other(format!("the keeper ended with {status}"))),
            _ => Ok(()),
        })?;
        worker.keeper = Some(child);
        Ok(worker)
    }

    /// Finds the worker of the group in `state_dir`, one that is about to start included.
    ///
    /// # Errors
    /// As [`Worker::spawn`].
    pub fn connect(state_dir: &Path, events: Sender<Event>) -> Result<Self, WorkerError> {
        Self::connect_while(state_dir, events, || Ok(()))
    }

    fn connect_while(
        state_dir: &Path,
        events: Sender<Event>,
        mut is_coming: impl FnMut() -> io::Result<()>,
    ) -> Result<Self, WorkerError> {
        let deadline = Instant::now() + START_TIMEOUT;
        let socket = loop {
            match SeqPacket::connect(&state_dir.join(SOCKET)) {
                Ok(socket) => break socket,
                Err(e) if Instant::now() > deadline => {
                    return Err(unreachable("reach the group's worker")(e));
                }
                Err(_) => {
                    is_coming().map_err(unreachable("start the group's worker"))?;
                    thread::sleep(Duration::from_millis(2));
                }
            }
        };
        let table = Table::open(state_dir)?;
        let (tx, rx) = channel();
        let reader = socket.try_clone().map_err(unreachable("share the worker's socket"))?;
        thread::Builder::new()
            .name("worker-events".into())
            .spawn(move || read_messages(&reader, &tx, &events))
            .map_err(unreachable("start a thread"))?;
        Ok(Self {
            state_dir: state_dir.to_owned(),
            socket,
            table,
            answers: parking::Answers(std::sync::Mutex::new(rx)),
            keeper: None,
        })
    }

    /// Gives the group's state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Reads what the worker published last, without asking it.
    pub fn snapshot(&self) -> Snapshot {
        self.table.snapshot()
    }

    /// Reads the group's counters as published last.
    pub fn stat(&self) -> super::GroupStat {
        self.table.stat()
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
        if let Some(child) = &mut self.keeper
            && !matches!(child.try_wait(), Ok(None))
        {
            self.keeper = None;
        }
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
        // What cannot be kept is not asked for.
        let what = "write the group's configuration";
        let new = prepare_config(&self.state_dir, config).map_err(unreachable(what))?;
        self.ask(&Request::Configure(config.clone()), None)?;
        std::fs::rename(new, self.state_dir.join(CONFIG)).map_err(unreachable(what))
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
        let answers = self.answers.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bytes = serde_json::to_vec(request).map_err(|e| unreachable("encode a request")(e.into()))?;
        self.socket.send(&bytes, fd).map_err(unreachable("send to the group's worker"))?;
        match answers.recv_timeout(ANSWER_TIMEOUT) {
            Ok(Message::Refused { errno, reason }) => Err(WorkerError::Refused { errno, reason }),
            Ok(_) => Ok(()),
            Err(e) => {
                // An answer that comes later must not be taken for that of the next request: the daemon connects anew.
                let _ = shutdown(self.socket.as_fd().as_raw_fd(), Shutdown::Both);
                let kind = match e {
                    RecvTimeoutError::Timeout => io::Error::from_raw_os_error(libc::ETIMEDOUT),
                    RecvTimeoutError::Disconnected => io::Error::from_raw_os_error(libc::EPIPE),
                };
                Err(unreachable("hear from the group's worker")(kind))
            }
        }
    }
}

fn write_config(state_dir: &Path, config: &GroupConfig) -> io::Result<()> {
    std::fs::rename(prepare_config(state_dir, config)?, state_dir.join(CONFIG))
}

/// Writes the configuration beside its place, to be renamed there.
fn prepare_config(state_dir: &Path, config: &GroupConfig) -> io::Result<PathBuf> {
    let new = state_dir.join(format!("{CONFIG}.new"));
    std::fs::write(&new, serde_json::to_vec_pretty(config)?)?;
    Ok(new)
}

/// Reads the configuration of the group in `state_dir`.
///
/// # Errors
/// If the file is missing or no configuration.
pub fn read_config(state_dir: &Path) -> io::Result<GroupConfig> {
    Ok(serde_json::from_slice(&std::fs::read(state_dir.join(CONFIG))?)?)
}

fn read_messages(socket: &SeqPacket, answers: &Sender<Message>, events: &Sender<Event>) {
    let mut buf = vec![0; MESSAGE_MAX];
    loop {
        let message = match socket.recv(&mut buf) {
            Ok((0, _)) | Err(_) => return,
            Ok((len, _fd)) => serde_json::from_slice(&buf[..len]),
        };
        match message {
            Ok(Message::Event(event)) => {
                let _ = events.send(event);
            }
            Ok(answer) => {
                if answers.send(answer).is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "unreadable message from a worker"),
        }
    }
}

/// An end of a nesting link, see [`super::proto::Request::Nest`].
pub type Link = OwnedFd;
/// Where a daemon hears what its workers report.
pub type Events = Receiver<Event>;
