//! The daemon's end of a memory worker: start it, find it again, ask it, hear from it, notice its end.

use std::io;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::time::Duration;

use host_sys::{Dialogue, DialogueError, Meeting, Pidfd};

use super::proto::{CONFIG, Event, MESSAGE_MAX, MemConfig, Message, Request, SOCKET, UnmanagedRange};
use super::table::{MemSnapshot, MemStat, MemTable, TableError};

/// The hidden subcommand of the multi-call binary that runs a memory group's keeper: `mem-keeper STATE_DIR`.
pub const KEEPER_ARG: &str = "mem-keeper";

const MEETING: Meeting =
    Meeting { keeper_arg: KEEPER_ARG, socket: SOCKET, config: CONFIG, message_max: MESSAGE_MAX };
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Where pages are moved: a member's GiB may have to be read back from a slow disk first.
const MOVE_TIMEOUT: Duration = Duration::from_secs(120);

/// Why a memory worker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MemWorkerError {
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

impl MemWorkerError {
    /// Gives the errno that the caller of the control tree shall see.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::Unreachable(e) => e.source.raw_os_error().unwrap_or(libc::EIO),
            Self::Table(_) => libc::EIO,
        }
    }
}

/// A memory group's worker and keeper, as their daemon holds them. Dropping it leaves both running.
#[derive(Debug)]
pub struct MemWorker {
    dialogue: Dialogue<Message>,
    table: MemTable,
}

impl MemWorker {
    /// Writes `config` into `state_dir` (which exists and is private to the daemon), starts a keeper there with the multi-call binary `exe`, and waits for its worker.
    ///
    /// `events` gets what the worker reports, from a thread of the client's own, and is dropped when the connection ends:
    /// then the worker has died (its keeper starts another one: [`MemWorker::connect`] again) or is done.
    ///
    /// # Errors
    /// [`MemWorkerError::Unreachable`], [`MemWorkerError::Table`].
    pub fn spawn(
        exe: &Path,
        state_dir: &Path,
        config: &MemConfig,
        events: Sender<Event>,
    ) -> Result<Self, MemWorkerError> {
        Self::with(Dialogue::spawn(&MEETING, exe, state_dir, &encode(config)?, sort_into(events))?)
    }

    /// Finds the worker of the group in `state_dir`, one that is about to start included.
    ///
    /// # Errors
    /// As [`MemWorker::spawn`].
    pub fn connect(state_dir: &Path, events: Sender<Event>) -> Result<Self, MemWorkerError> {
        Self::with(Dialogue::connect(&MEETING, state_dir, sort_into(events))?)
    }

    fn with(dialogue: Dialogue<Message>) -> Result<Self, MemWorkerError> {
        let table = MemTable::open(dialogue.state_dir())?;
        Ok(Self { dialogue, table })
    }

    /// Gives the group's state directory.
    pub fn state_dir(&self) -> &Path {
        self.dialogue.state_dir()
    }

    /// Reads what the worker published last, without asking it.
    pub fn snapshot(&self) -> MemSnapshot {
        self.table.snapshot()
    }

    /// Reads the group's counters as published last.
    pub fn stat(&self) -> MemStat {
        self.table.stat()
    }

    /// Gives the worker's PID.
    pub fn worker_pid(&self) -> i32 {
        self.table.worker_pid()
    }

    /// Gives the keeper's PID.
    pub fn keeper_pid(&self) -> i32 {
        self.table.keeper_pid()
    }

    /// Opens the keeper for noticing its end (`poll` for input).
    ///
    /// # Errors
    /// [`MemWorkerError::Unreachable`] if it is gone.
    pub fn keeper_pidfd(&self) -> Result<Pidfd, MemWorkerError> {
        Pidfd::open(self.keeper_pid()).map_err(failed("open the keeper"))
    }

    /// Takes the exit status of a keeper that this daemon has started and that has ended, so that it is no zombie. Does not wait.
    pub fn reap_keeper(&mut self) {
        self.dialogue.reap_keeper();
    }

    /// Takes in a process with its address space. May take long.
    ///
    /// # Errors
    /// [`MemWorkerError`].
    pub fn join(&self, pid: i32, start_time: u64) -> Result<(), MemWorkerError> {
        self.ask(&Request::Join { pid, start_time }, MOVE_TIMEOUT).map(drop)
    }

    /// Lets a process go, everything brought back. May take long.
    ///
    /// # Errors
    /// [`MemWorkerError`].
    pub fn leave(&self, pid: i32) -> Result<(), MemWorkerError> {
        self.ask(&Request::Leave { pid }, MOVE_TIMEOUT).map(drop)
    }

    /// Replaces what is set of the group. May take long where the limit is lowered.
    ///
    /// # Errors
    /// [`MemWorkerError`].
    pub fn configure(&self, config: &MemConfig) -> Result<(), MemWorkerError> {
        self.dialogue.configure(&encode(config)?, || {
            self.ask(&Request::Configure(config.clone()), MOVE_TIMEOUT).map(drop)
        })
    }

    /// Evicts so many bytes. May take long.
    ///
    /// # Errors
    /// [`MemWorkerError`]; EAGAIN where less could be evicted.
    pub fn reclaim(&self, bytes: u64) -> Result<(), MemWorkerError> {
        self.ask(&Request::Reclaim { bytes }, MOVE_TIMEOUT).map(drop)
    }

    /// Gives the ranges of a member that cannot be paged.
    ///
    /// # Errors
    /// [`MemWorkerError`].
    pub fn unmanaged(&self, pid: i32) -> Result<Vec<UnmanagedRange>, MemWorkerError> {
        match self.ask(&Request::Unmanaged { pid }, ANSWER_TIMEOUT)? {
            Message::Unmanaged(ranges) => Ok(ranges),
            _ => Err(failed("understand the group's worker")(io::ErrorKind::InvalidData.into())),
        }
    }

    /// Has the worker publish everything as of now.
    ///
    /// # Errors
    /// [`MemWorkerError`].
    pub fn sync(&self) -> Result<(), MemWorkerError> {
        self.ask(&Request::Sync, ANSWER_TIMEOUT).map(drop)
    }

    /// Lets every member go and ends worker and keeper. The state directory is the caller's to remove. May take long.
    ///
    /// # Errors
    /// [`MemWorkerError`].
    pub fn dissolve(&self) -> Result<(), MemWorkerError> {
        self.ask(&Request::Dissolve, MOVE_TIMEOUT).map(drop)
    }

    fn ask(&self, request: &Request, timeout: Duration) -> Result<Message, MemWorkerError> {
        match self.dialogue.ask(&encode(request)?, None, timeout)? {
            Message::Refused { errno, reason } => Err(MemWorkerError::Refused { errno, reason }),
            answer => Ok(answer),
        }
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> MemWorkerError {
    move |source| MemWorkerError::Unreachable(DialogueError { what, source })
}

fn encode(message: &impl serde::Serialize) -> Result<Vec<u8>, MemWorkerError> {
    serde_json::to_vec(message).map_err(|e| failed("encode a request")(e.into()))
}

/// Reads the configuration of the group in `state_dir`.
///
/// # Errors
/// If the file is missing or no configuration.
pub fn read_config(state_dir: &Path) -> io::Result<MemConfig> {
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
            tracing::warn!(%error, "unreadable message from a memory worker");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use host_sys::{Listener, SeqPacket};

    use super::*;

    /// A worker that answers as it is told, in this process.
    fn answering(dir: &Path, answer: impl Fn(Request) -> Vec<Message> + Send + 'static) {
        MemTable::create(dir).expect("a table").set_worker_pid(7);
        let listener = Listener::bind(&dir.join(SOCKET)).expect("a socket");
        std::thread::spawn(move || {
            let deadline = Instant::now() + Duration::from_secs(5);
            let socket: SeqPacket = loop {
                match listener.accept() {
                    Ok(socket) => break socket,
                    Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                    Err(e) => panic!("{e}"),
                }
            };
            let mut buf = vec![0; MESSAGE_MAX];
            while let Ok((len @ 1.., _)) = socket.recv(&mut buf) {
                for message in answer(serde_json::from_slice(&buf[..len]).expect("a request")) {
                    socket.send(&serde_json::to_vec(&message).expect("text"), None).expect("sent");
                }
            }
        });
    }

    #[test]
    fn answers_refusals_and_events_are_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let range = UnmanagedRange { start: 1, end: 2, resident: 1, reason: "locked".into() };
        let known = range.clone();
        answering(dir.path(), move |request| match request {
            Request::Join { pid: 1, .. } => {
                vec![Message::Refused { errno: libc::EOPNOTSUPP, reason: "the init process".into() }]
            }
            Request::Join { pid, .. } => vec![Message::Event(Event::Executed { pid }), Message::Done],
            Request::Unmanaged { .. } => vec![Message::Unmanaged(vec![known.clone()])],
            _ => vec![Message::Done],
        });
        let (tx, events) = channel();
        let worker = MemWorker::connect(dir.path(), tx).expect("connected");

        assert_eq!(worker.worker_pid(), 7);
        worker.join(5, 99).expect("taken in");
        assert_eq!(events.recv_timeout(Duration::from_secs(5)), Ok(Event::Executed { pid: 5 }));
        let refused = worker.join(1, 0).expect_err("refused");
        assert_eq!((refused.errno(), refused.to_string()), (libc::EOPNOTSUPP, "the init process".into()));
        assert_eq!(worker.unmanaged(5).expect("ranges"), vec![range]);
    }

    #[test]
    fn configuration_is_kept_only_if_the_worker_agrees() {
        let dir = tempfile::tempdir().expect("a directory");
        answering(dir.path(), |request| match request {
            Request::Configure(config) if config.max == Some(1) => {
                vec![Message::Refused { errno: libc::EINVAL, reason: "too small".into() }]
            }
            _ => vec![Message::Done],
        });
        let worker = MemWorker::connect(dir.path(), channel().0).expect("connected");
        let config = |max| MemConfig { max: Some(max), ..MemConfig::default() };

        worker.configure(&config(2)).expect("agreed");
        assert_eq!(worker.configure(&config(1)).map_err(|e| e.errno()), Err(libc::EINVAL));

        assert_eq!(read_config(dir.path()).expect("kept"), config(2));
    }

    #[test]
    fn worker_that_goes_away_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        answering(dir.path(), |_| panic!("the worker dies"));
        let (tx, events) = channel();
        let worker = MemWorker::connect(dir.path(), tx).expect("connected");

        assert!(matches!(worker.sync(), Err(MemWorkerError::Unreachable(_))));
        assert!(events.recv_timeout(Duration::from_secs(5)).is_err());
    }
}
