//! What stands for a pidfd of a guest task: the reading end of a pipe, which can be read when the task has ended.
//!
//! A descriptor of another process is told by its name, as `/proc` has it (`pipe:[4711]`): no file is looked at for that, whose server might take
//! its time.

use std::fs;
use std::io::{self, PipeWriter, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Those that are open somewhere.
#[derive(Debug, Default)]
pub(super) struct Pidfds(Vec<Pidfd>);

#[derive(Debug)]
struct Pidfd {
    /// Of both ends.
    name: PathBuf,
    guest: i32,
    writer: PipeWriter,
    has_ended: bool,
}

impl Pidfds {
    /// Makes one.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(super) fn open(&mut self, guest: i32) -> io::Result<OwnedFd> {
        let (reader, writer) = io::pipe()?;
        let name = fs::read_link(format!("/proc/self/fd/{}", writer.as_raw_fd()))?;
        self.0.push(Pidfd { name, guest, writer, has_ended: false });
        Ok(reader.into())
    }

    /// Gives the guest task for which a descriptor of that name stands.
    pub(super) fn guest(&self, name: &Path) -> Option<i32> {
        self.0.iter().find(|pidfd| pidfd.name == name).map(|pidfd| pidfd.guest)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells of tasks that have ended, and forgets pipes that nobody reads any more.
    pub(super) fn look(&mut self, is_there: impl Fn(i32) -> bool) {
        self.0.retain_mut(|pidfd| {
            if !pidfd.has_ended && !is_there(pidfd.guest) {
                // It stands for that task until it is closed.
                pidfd.has_ended = pidfd.writer.write_all(b"x").is_ok();
            }
            let mut ends = [PollFd::new(pidfd.writer.as_fd(), PollFlags::empty())];
            poll(&mut ends, PollTimeout::ZERO).is_ok_and(|n| n == 0)
        });
    }
}
