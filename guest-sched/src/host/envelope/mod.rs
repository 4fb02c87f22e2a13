//! What fixes the group's weight on the host: a cpu cgroup around its members, or the autogroup of the session that they are all in.

mod autogroup;
mod cpu_cgroup;

use std::io;

use autogroup::Autogroup;
use cpu_cgroup::CpuCgroup;

use super::mode;

/// The envelope of a group.
#[derive(Debug)]
pub(crate) enum Envelope {
    /// A cpu cgroup of our own.
    Cgroup(CpuCgroup),
    /// The members' autogroup.
    Autogroup(Autogroup),
}

/// Why a process cannot be put into the envelope.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvelopeError {
    /// It comes from another cpu cgroup or autogroup than the members before it.
    #[error("the process comes from {0:?}, the group's envelope is in another one")]
    OtherOrigin(String),
    /// It could not be used.
    #[error("use the envelope of the group: {0}")]
    Io(#[from] io::Error),
}

impl Envelope {
    /// Prepares an envelope, if the mode has one; nothing is made or changed before the first member comes.
    ///
    /// # Errors
    /// If the host does not offer it, or we may not use it.
    pub(crate) fn new(kind: mode::Envelope, tag: &str, nice: i8) -> io::Result<Option<Self>> {
        Ok(match kind {
            mode::Envelope::Cgroup => Some(Self::Cgroup(CpuCgroup::new(tag, nice)?)),
            mode::Envelope::Autogroup => Some(Self::Autogroup(Autogroup::new(nice)?)),
            mode::Envelope::None => None,
        })
    }

    /// Puts a process with all its threads in. Its children follow by themselves.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub(crate) fn enter(&mut self, pid: i32) -> Result<(), EnvelopeError> {
        match self {
            Self::Cgroup(cgroup) => cgroup.enter(pid),
            Self::Autogroup(autogroup) => autogroup.enter(pid),
        }
    }

    /// Whether a member is still in it: one that begins a session of its own leaves an autogroup.
    pub(crate) fn holds(&self, pid: i32) -> bool {
        match self {
            Self::Cgroup(_) => true,
            Self::Autogroup(autogroup) => autogroup.holds(pid),
        }
    }

    /// Lets a process go back to where it came from.
    pub(crate) fn leave(&mut self, pid: i32) {
        match self {
            Self::Cgroup(cgroup) => cgroup.leave(pid),
            Self::Autogroup(autogroup) => autogroup.leave(pid),
        }
    }

    /// Sets the group's weight on the host.
    ///
    /// # Errors
    /// If the host refuses it.
    pub(crate) fn set_nice(&mut self, nice: i8) -> io::Result<()> {
        match self {
            Self::Cgroup(cgroup) => cgroup.set_nice(nice),
            Self::Autogroup(autogroup) => autogroup.set_nice(nice),
        }
    }

    /// Lets everybody go and undoes what was changed.
    pub(crate) fn dissolve(&mut self) {
        match self {
            Self::Cgroup(cgroup) => cgroup.dissolve(),
            Self::Autogroup(autogroup) => autogroup.dissolve(),
        }
    }
}
