//! Who may keep a group: a lock on a file in its state directory.
//!
//! A keeper takes it before it starts a worker, and the two hold it together, as they share their descriptors: it is free when both are
//! dead, not before. So there are never two pairs at work on one group, whoever has started keepers: a worker that has lost its own, the
//! daemon, and the daemon before that.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const LEASE: &str = "lease";
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The lock, held until its descriptor is closed everywhere.
#[derive(Debug)]
pub(super) struct Lease(File);

impl Lease {
    /// Takes the lease of the group in `state_dir`; waits for whoever has it, for at most `patience`.
    ///
    /// # Errors
    /// `WouldBlock` if somebody has it all that time; those of opening the file.
    pub(super) fn take(state_dir: &Path, patience: Duration) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(state_dir.join(LEASE))?;
        let deadline = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(std::fs::TryLockError::Error(error)) => return Err(error),
                Err(std::fs::TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(std::fs::TryLockError::WouldBlock) => sleep(LOOK_EVERY),
            }
        }
    }

    /// Gives its descriptor, which is not to be closed.
    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_is_had_by_one_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Lease::take(dir.path(), Duration::ZERO).expect("free");

        let refused = Lease::take(dir.path(), Duration::ZERO).map(drop).map_err(|e| e.kind());
        assert_eq!(refused, Err(io::ErrorKind::WouldBlock));

        drop(first);
        assert!(Lease::take(dir.path(), Duration::ZERO).is_ok());
    }
}
