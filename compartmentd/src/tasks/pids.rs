//! Guest PIDs: numbers that no process of the host can have, each given once.
//!
//! They go up from [`FIRST_PID`], across daemons too: numbers are reserved in the state directory by the block, so that a later daemon begins
//! behind all that an earlier one may have given. After 2 143 289 343 of them the count begins anew, past those in use.

use std::fs;
use std::io;
use std::path::PathBuf;

/// The first guest PID: above the kernel's largest (`PID_MAX_LIMIT` is 2^22).
pub const FIRST_PID: i32 = 4_194_304;

const BLOCK: i32 = 65_536;

/// Gives numbers.
#[derive(Debug)]
pub(super) struct Pids {
    file: PathBuf,
    next: i32,
    reserved: i32,
}

impl Pids {
    /// Begins behind what an earlier daemon reserved.
    pub(super) fn new(file: PathBuf) -> Self {
        let saved = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<i32>().ok());
        let next = saved.filter(|n| *n >= FIRST_PID).unwrap_or(FIRST_PID);
        Self { file, next, reserved: next }
    }

    /// The number that comes next.
    pub(super) fn next(&self) -> i32 {
        self.next
    }

    /// Gives a number that `is_used` does not know.
    pub(super) fn give(&mut self, is_used: impl Fn(i32) -> bool) -> i32 {
        loop {
            if self.next >= self.reserved {
                self.reserve();
            }
            let pid = self.next;
            self.next = if pid == i32::MAX { FIRST_PID } else { pid + 1 };
            if self.next == FIRST_PID {
                self.reserved = FIRST_PID;
            }
            if !is_used(pid) {
                return pid;
            }
        }
    }

    fn reserve(&mut self) {
        self.reserved = self.next.saturating_add(BLOCK);
        let tmp = self.file.with_extension("new");
        let saved: io::Result<()> =
            fs::write(&tmp, format!("{}\n", self.reserved)).and_then(|()| fs::rename(&tmp, &self.file));
        if let Err(error) = saved {
            // A later daemon may give these numbers again; this one does not.
            tracing::warn!(%error, file = %self.file.display(), "guest PIDs are not reserved");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_up_and_a_later_daemon_gives_none_of_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("guest-pids");
        let mut pids = Pids::new(file.clone());
        let given: Vec<i32> = (0..70_000).map(|_| pids.give(|_| false)).collect();

        let later = Pids::new(file).give(|_| false);

        assert_eq!((given[0], given[69_999]), (FIRST_PID, FIRST_PID + 69_999));
        assert!(later > given[69_999]);
    }

    #[test]
    fn numbers_in_use_are_passed_over_after_the_last_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut pids = Pids::new(dir.path().join("guest-pids"));
        pids.next = i32::MAX - 1;

        let given: Vec<i32> = (0..4).map(|_| pids.give(|pid| pid == FIRST_PID)).collect();

        assert_eq!(given, [i32::MAX - 1, i32::MAX, FIRST_PID + 1, FIRST_PID + 2]);
    }
}
