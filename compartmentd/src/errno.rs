//! The one table from reasons to errno: every refusal of the tree is a [`Why`] and some words.

use std::io;

use guest_mm::uffd::client::MemWorkerError;
use guest_sched::host::WorkerError;
use host_sys::DialogueError;

/// Why something is refused, as far as the caller's errno tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// There is no such process (any more).
    NoProcess,
    /// The caller may not do that.
    NotAllowed,
    /// The value is malformed or out of range.
    Malformed,
    /// That process, or this host, cannot do that.
    Unsupported,
    /// The group is not empty, is being removed, or is held.
    Busy,
    /// Nesting would make a circle.
    Circle,
    /// There are as many groups as may be.
    Full,
    /// There is no such entry.
    Missing,
    /// There is one already.
    Exists,
    /// A worker cannot be reached.
    Broken,
    /// What somebody else answered.
    Other(i32),
}

impl Why {
    /// Gives the errno.
    pub const fn errno(self) -> i32 {
        match self {
            Self::NoProcess => libc::ESRCH,
            Self::NotAllowed => libc::EPERM,
            Self::Malformed => libc::EINVAL,
            Self::Unsupported => libc::EOPNOTSUPP,
            Self::Busy => libc::EBUSY,
            Self::Circle => libc::ELOOP,
            Self::Full => libc::ENOSPC,
            Self::Missing => libc::ENOENT,
            Self::Exists => libc::EEXIST,
            Self::Broken => libc::EIO,
            Self::Other(errno) => errno,
        }
    }
}

/// A refused operation: nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What the errno comes from.
    pub why: Why,
    /// The reason in words, for `error_log`.
    pub reason: String,
}

impl Refusal {
    /// Makes a refusal.
    pub fn new(why: Why, reason: impl Into<String>) -> Self {
        Self { why, reason: reason.into() }
    }

    /// Gives the errno for the caller.
    pub const fn errno(&self) -> i32 {
        self.why.errno()
    }

    /// Gives the errno for the caller of a rename. `mv` takes EINVAL for "a subdirectory of itself" and
    /// answers EXDEV with a copy: neither may be seen.
    pub const fn rename_errno(&self) -> i32 {
        match self.errno() {
            libc::EINVAL => libc::EOPNOTSUPP,
            libc::EXDEV => libc::EIO,
            errno => errno,
        }
    }
}

impl From<WorkerError> for Refusal {
    fn from(e: WorkerError) -> Self {
        match e {
            WorkerError::Refused { errno, reason } => Self { why: Why::Other(errno), reason },
            WorkerError::Unreachable(e) => e.into(),
            WorkerError::Table(e) => Self { why: Why::Broken, reason: e.to_string() },
        }
    }
}

impl From<MemWorkerError> for Refusal {
    fn from(e: MemWorkerError) -> Self {
        match e {
            MemWorkerError::Refused { errno, reason } => Self { why: Why::Other(errno), reason },
            MemWorkerError::Unreachable(e) => e.into(),
            MemWorkerError::Table(e) => Self { why: Why::Broken, reason: e.to_string() },
        }
    }
}

impl From<DialogueError> for Refusal {
    fn from(e: DialogueError) -> Self {
        // The errno of a broken connection would say something about the caller's file, and wrongly.
        Self { why: Why::Broken, reason: format!("{e}: {}", e.source) }
    }
}

impl From<io::Error> for Refusal {
    fn from(e: io::Error) -> Self {
        Self { why: e.raw_os_error().map_or(Why::Broken, Why::Other), reason: e.to_string() }
    }
}

/// The error of a process that is not there.
pub(crate) fn no_process(pid: i32) -> Refusal {
    Refusal::new(Why::NoProcess, format!("there is no process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rename_errno_is_never_one_that_mv_misunderstands() {
        assert_eq!(Refusal::new(Why::Malformed, "x").rename_errno(), libc::EOPNOTSUPP);
        assert_eq!(Refusal::new(Why::Other(libc::EXDEV), "x").rename_errno(), libc::EIO);
        assert_eq!(Refusal::new(Why::Circle, "x").rename_errno(), libc::ELOOP);
    }
}
