//! Exit codes, and the one table from errors to them.

use std::io;
use std::process::ExitCode;

use nix::errno::Errno;

use crate::tree::TreeError;

/// What the program's status says. `run` also passes on the status of its command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// It could not be done.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// There is no control tree.
    Unreachable = 3,
    /// The caller may not do it.
    Denied = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// The control tree refused, or is not there.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A daemon could not be had.
    #[error("{0}")]
    Unreachable(String),
    /// The result could not be written to standard output.
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
    /// A system call of our own failed.
    #[error("cannot {what}: {}", describe(.source))]
    Os {
        /// What was tried.
        what: String,
        /// How it failed.
        source: io::Error,
    },
    /// Some of several objects failed; each was reported already.
    #[error("{failed} of {all} failed")]
    Partly {
        /// How many failed.
        failed: usize,
        /// How many there were.
        all: usize,
        /// The code of the worst of them.
        exit: Exit,
    },
    /// A signal ended the work.
    #[error("interrupted by {0}")]
    Interrupted(nix::sys::signal::Signal),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// Wraps a failed system call; for `map_err`.
    pub(crate) fn os(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Os { what, source }
    }

    /// The same for nix.
    pub(crate) fn nix(what: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let wrap = Self::os(what);
        move |errno| wrap(errno.into())
    }

    /// Gives the exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Tree(e) => e.exit(),
            Self::Unreachable(_) => Exit::Unreachable,
            Self::Partly { exit, .. } => *exit,
            Self::Os { source, .. } => exit_of(source),
            Self::Output(_) | Self::Interrupted(_) | Self::Failed(_) => Exit::Failed,
        }
    }

    /// Gives the status of the process: 128 + n after signal n, as shells have it.
    pub(crate) fn status(&self) -> ExitCode {
        match self {
            Self::Interrupted(signal) => ExitCode::from(128u8.saturating_add(*signal as u8)),
            // The reader of a pipe has seen enough: not an error.
            Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => Exit::Ok.into(),
            other => other.exit().into(),
        }
    }

    /// Whether there is something to tell on standard error.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<io::Error> for CliError {
    fn from(source: io::Error) -> Self {
        Self::Output(source)
    }
}

/// The exit code for an errno.
pub(crate) fn exit_of(error: &io::Error) -> Exit {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES | Errno::EROFS) => Exit::Denied,
        // A FUSE mount whose server has died.
        Some(Errno::ENOTCONN | Errno::ECONNABORTED) => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

/// An error in words, without the number that `io::Error` adds.
pub(crate) fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        // nix calls it "operation not supported on transport endpoint", which misleads here.
        Some(raw) if raw == Errno::EOPNOTSUPP as i32 => "operation not supported".into(),
        Some(raw) => Errno::from_raw(raw).desc().to_lowercase(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_of_errnos_follows_the_table() {
        let exit = |errno: Errno| exit_of(&io::Error::from(errno));

        assert_eq!(exit(Errno::EPERM), Exit::Denied);
        assert_eq!(exit(Errno::EACCES), Exit::Denied);
        assert_eq!(exit(Errno::ENOTCONN), Exit::Unreachable);
        assert_eq!(exit(Errno::EBUSY), Exit::Failed);
        assert_eq!(CliError::Usage(String::new()).exit(), Exit::Usage);
    }

    #[test]
    fn output_into_closed_pipe_is_silent() {
        let error = CliError::from(io::Error::from(Errno::EPIPE));
        assert!(error.is_silent());
    }
}
