//! Signals as something to wait for, so that every way out of a verb passes its clean-up.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::exit::CliError;

/// The signals that ask the program to end.
const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// A signal that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Received {
    /// Which.
    pub(crate) signal: Signal,
    /// The terminal sent it, so to the whole foreground process group.
    pub(crate) is_from_terminal: bool,
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Holds the ending signals, the user's two and `SIGCHLD` back for the rest of the process's life; [`Self::wait`] gives them out.
///
/// Children inherit the blocked mask: the gate, the daemon and the keeper clear it.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks them. To be called before anything that needs cleaning up, and before any thread.
    pub(crate) fn block() -> Result<Self, CliError> {
        let mut mask = SigSet::from_iter(ENDING);
        mask.extend([Signal::SIGCHLD, Signal::SIGUSR1, Signal::SIGUSR2]);
        mask.thread_block().map_err(CliError::nix("block signals"))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&mask, flags).map_err(CliError::nix("make a signalfd"))?;
        Ok(Self { fd })
    }

    /// Waits for a signal at most that long.
    pub(crate) fn wait(&self, at_most: Duration) -> Result<Option<Received>, CliError> {
        let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(e) => return Err(CliError::nix("wait for a signal")(e)),
        }
        let info = self.fd.read_signal().map_err(CliError::nix("read a signal"))?;
        Ok(info.and_then(|info| {
            let signal = Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()?;
            Some(Received { signal, is_from_terminal: info.ssi_code == libc::SI_KERNEL })
        }))
    }

    /// Waits for a signal or until `other` can be read.
    pub(crate) fn wait_or(&self, other: BorrowedFd<'_>) -> Result<Option<Received>, CliError> {
        let mut fds =
            [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN), PollFd::new(other, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => self.wait(Duration::ZERO),
            Err(e) => Err(CliError::nix("wait for a signal")(e)),
        }
    }

    /// Waits for input at most that long, and fails as soon as a signal asks to end, or the terminal that it comes from has hung up.
    ///
    /// # Errors
    /// [`CliError::Interrupted`].
    pub(crate) fn wait_beside(&self, input: BorrowedFd<'_>, at_most: Duration) -> Result<(), CliError> {
        let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
        let mut fds =
            [PollFd::new(input, PollFlags::POLLIN), PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(CliError::nix("wait for input")(e)),
        }
        let dead = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        if fds[0].revents().is_some_and(|events| events.intersects(dead)) {
            return Err(CliError::Interrupted(Signal::SIGHUP));
        }
        self.sleep(Duration::ZERO)
    }

    /// Waits that long, and fails as soon as a signal asks to end.
    ///
    /// # Errors
    /// [`CliError::Interrupted`].
    pub(crate) fn sleep(&self, time: Duration) -> Result<(), CliError> {
        let end = std::time::Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            match self.wait(left)? {
                Some(got) if ENDING.contains(&got.signal) => return Err(CliError::Interrupted(got.signal)),
                _ if left.is_zero() => return Ok(()),
                _ => {}
            }
        }
    }
}

impl Received {
    /// Whether it asks the program to end.
    pub(crate) fn is_ending(self) -> bool {
        ENDING.contains(&self.signal)
    }
}

/// Parses a signal's name (`TERM`, `SIGTERM`, any case) or number as `kill` does.
pub(crate) fn parse(text: &str) -> Result<Signal, String> {
    let upper = text.to_ascii_uppercase();
    let by_name = if upper.starts_with("SIG") { upper.parse() } else { format!("SIG{upper}").parse() };
    let by_number = || text.parse::<i32>().ok().and_then(|n| Signal::try_from(n).ok());
    by_name.ok().or_else(by_number).ok_or_else(|| format!("there is no signal {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_by_name_or_number_is_found() {
        for text in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(parse(text), Ok(Signal::SIGTERM), "{text}");
        }
        for bad in ["", "0", "99", "SIGNOTHING", "-1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
