//! What is still to be done when a process dies in whatever way: a byte is written to a file.
//!
//! A killed process with a thread that cannot die, because it waits in the kernel for what another of its threads should have done, keeps
//! its descriptors open; nobody can see its end by those. Its children can: each is told of the death of the thread that made it.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::sys;

/// A small process that waits for the death of the thread that made it. Ended when this is dropped.
#[derive(Debug)]
pub struct LastWill(Pid);

impl LastWill {
    /// From now on a `1` is written to `file` when the calling thread dies, as it does when its process is killed. Call it from a
    /// thread that lives as long as the process.
    ///
    /// # Errors
    /// Those of `pipe(2)` and `clone(2)`.
    pub fn leave(file: OwnedFd) -> io::Result<Self> {
        let (mut ready, says_so) = io::pipe()?;
        let will = sys::fork_last_will(file.as_fd(), says_so.as_fd()).map(|pid| Self(Pid::from_raw(pid)))?;
        drop(says_so);
        // Else the thread might die unheard.
        ready.read_exact(&mut [0])?;
        Ok(will)
    }
}

impl Drop for LastWill {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};
    use std::thread;

    use super::*;

    #[test]
    fn will_is_carried_out_when_its_thread_dies_and_not_when_it_is_dropped() {
        for (is_dropped, expected) in [(true, ""), (false, "1")] {
            let (mut read, write) = io::pipe().expect("a pipe");
            let file = write.as_fd().try_clone_to_owned().expect("a descriptor");
            thread::spawn(move || {
                let will = LastWill::leave(file).expect("a process more");
                if is_dropped { drop(will) } else { std::mem::forget(will) }
            })
            .join()
            .expect("no panic");
            drop(write);

            let mut text = String::new();
            read.read_to_string(&mut text).expect("a pipe");
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn will_holds_nothing_of_its_process_open() {
        let (mut read, write) = io::pipe().expect("a pipe");
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat");
        let mut input = cat.stdin.take().expect("a pipe");
        let will = LastWill::leave(write.into()).expect("a process more");

        input.write_all(b"x").expect("a reader");
        drop(input);
        assert!(cat.wait().expect("our child").success(), "it has seen the end of its input");

        drop(will);
        assert_eq!(read.read(&mut [0]).expect("a pipe"), 0);
    }
}
