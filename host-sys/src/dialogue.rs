//! A daemon's end of a worker process: start its keeper, find it again, ask it one thing at a time, hear what it reports.
//!
//! Knows nothing of what is said: messages are bytes, which the owner encodes and sorts.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{Shutdown, getsockopt, shutdown};

use crate::{Pidfd, SeqPacket};

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a worker could not be started, reached or heard.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct DialogueError {
    /// What was tried.
    pub what: &'static str,
    /// The cause.
    pub source: io::Error,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> DialogueError {
    move |source| DialogueError { what, source }
}

/// Where the two ends meet, and how much they say at once.
#[derive(Clone, Copy, Debug)]
pub struct Meeting {
    /// The multi-call binary's hidden subcommand that runs a keeper: `ARG STATE_DIR`.
    pub keeper_arg: &'static str,
    /// The file in the state directory on which the worker listens.
    pub socket: &'static str,
    /// The file in the state directory that holds what is set of the group.
    pub config: &'static str,
    /// The largest message.
    pub message_max: usize,
}

/// The daemon's end of one worker. Dropping it leaves worker and keeper running.
#[derive(Debug)]
pub struct Dialogue<M> {
    state_dir: PathBuf,
    config: &'static str,
    socket: SeqPacket,
    /// Answers in the order of the requests; one request at a time.
    answers: Mutex<Receiver<M>>,
    keeper: Option<Child>,
}

impl<M: Send + 'static> Dialogue<M> {
    /// Writes `config` into `state_dir` (which exists and is private to the daemon), starts a keeper there with the
    /// multi-call binary `exe`, and waits for its worker.
    ///
    /// `sort` gets every message, on a thread of its own, and gives back those that are answers. It is dropped when the
    /// connection ends: then the worker has died (its keeper starts another one: [`Dialogue::connect`] again) or is done.
    ///
    /// # Errors
    /// [`DialogueError`].
    pub fn spawn(
        meeting: &Meeting,
        exe: &Path,
        state_dir: &Path,
        config: &[u8],
        sort: impl FnMut(&[u8]) -> Option<M> + Send + 'static,
    ) -> Result<Self, DialogueError> {
        let what = "write the group's configuration";
        let new = prepare(state_dir, meeting.config, config).map_err(failed(what))?;
        std::fs::rename(new, state_dir.join(meeting.config)).map_err(failed(what))?;
        let mut child = Command::new(exe)
            .arg(meeting.keeper_arg)
            .arg(state_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed("start a keeper"))?;
        let mut dialogue = Self::connect_while(meeting, state_dir, sort, || match child.try_wait() {
            Ok(Some(status)) => Err(io::Error::other(format!("the keeper ended with {status}"))),
            _ => Ok(()),
        })?;
        dialogue.keeper = Some(child);
        Ok(dialogue)
    }

    /// Finds the worker of the group in `state_dir`, one that is about to start included. `sort` as in [`Dialogue::spawn`].
    ///
    /// # Errors
    /// [`DialogueError`].
    pub fn connect(
        meeting: &Meeting,
        state_dir: &Path,
        sort: impl FnMut(&[u8]) -> Option<M> + Send + 'static,
    ) -> Result<Self, DialogueError> {
        Self::connect_while(meeting, state_dir, sort, || Ok(()))
    }

    fn connect_while(
        meeting: &Meeting,
        state_dir: &Path,
        mut sort: impl FnMut(&[u8]) -> Option<M> + Send + 'static,
        mut is_coming: impl FnMut() -> io::Result<()>,
    ) -> Result<Self, DialogueError> {
        let deadline = Instant::now() + START_TIMEOUT;
        let socket = loop {
            match SeqPacket::connect(&state_dir.join(meeting.socket)) {
                Ok(socket) => break socket,
                Err(e) if Instant::now() > deadline => {
                    return Err(failed("reach the group's worker")(e));
                }
                Err(_) => {
                    is_coming().map_err(failed("start the group's worker"))?;
                    thread::sleep(Duration::from_millis(2));
                }
            }
        };
        let (tx, rx) = channel();
        let reader = socket.try_clone().map_err(failed("share the worker's socket"))?;
        let mut buf = vec![0; meeting.message_max];
        let worker = getsockopt(&socket, PeerCredentials).ok().and_then(|peer| Pidfd::open(peer.pid()).ok());
        thread::Builder::new()
            .name("worker-events".into())
            .spawn(move || {
                while let Ok((len @ 1.., _fd)) = hear(&reader, worker.as_ref(), &mut buf) {
                    if let Some(answer) = sort(&buf[..len])
                        && tx.send(answer).is_err()
                    {
                        return;
                    }
                }
            })
            .map_err(failed("start a thread"))?;
        Ok(Self {
            state_dir: state_dir.to_owned(),
            config: meeting.config,
            socket,
            answers: Mutex::new(rx),
            keeper: None,
        })
    }

    /// Gives the group's state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Takes the exit status of a keeper that this daemon has started and that has ended, so that it is no zombie. Does not wait.
    pub fn reap_keeper(&mut self) {
        if let Some(child) = &mut self.keeper
            && !matches!(child.try_wait(), Ok(None))
        {
            self.keeper = None;
        }
    }

    /// Asks, and waits for the answer. Requests of several threads follow one another.
    ///
    /// # Errors
    /// [`DialogueError`]; after a timeout the connection is of no more use.
    pub fn ask(
        &self,
        request: &[u8],
        fd: Option<BorrowedFd<'_>>,
        timeout: Duration,
    ) -> Result<M, DialogueError> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        self.socket.send(request, fd).map_err(failed("send to the group's worker"))?;
        answers.recv_timeout(timeout).map_err(|e| {
            // An answer that comes later must not be taken for that of the next request: the daemon connects anew.
            let _ = shutdown(self.socket.as_fd().as_raw_fd(), Shutdown::Both);
            failed("hear from the group's worker")(io::Error::from_raw_os_error(match e {
                RecvTimeoutError::Timeout => libc::ETIMEDOUT,
                RecvTimeoutError::Disconnected => libc::EPIPE,
            }))
        })
    }

    /// Writes what is set of the group, once `ask` has had the worker agree to it. What cannot be kept is not asked for.
    ///
    /// # Errors
    /// [`DialogueError`] of the file, and those of `ask`.
    pub fn configure<E: From<DialogueError>>(
        &self,
        config: &[u8],
        ask: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let what = "write the group's configuration";
        let new = prepare(&self.state_dir, self.config, config).map_err(failed(what))?;
        ask()?;
        Ok(std::fs::rename(new, self.state_dir.join(self.config)).map_err(failed(what))?)
    }
}

/// Receives the next message. The end of the worker is the end of the connection, even if the keeper, which shares the worker's
/// descriptors, has it open still.
fn hear(socket: &SeqPacket, worker: Option<&Pidfd>, buf: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let Some(worker) = worker else { return socket.recv(buf) };
    loop {
        let mut fds =
            [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(worker.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return socket.try_recv(buf),
        }
    }
}

/// Writes a file beside its place, to be renamed there.
fn prepare(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let new = dir.join(format!("{name}.new"));
    std::fs::write(&new, bytes)?;
    Ok(new)
}
