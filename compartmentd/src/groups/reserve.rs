//! Reservations of PIDs: two moves of one process come one after the other.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::errno::{Refusal, Why};

/// The PIDs that are being moved.
#[derive(Debug, Default)]
pub struct Reservations {
    taken: Mutex<HashSet<i32>>,
    freed: Condvar,
}

const PATIENCE: Duration = Duration::from_secs(5);

impl Reservations {
    /// Waits until nobody else moves `pid`, and keeps it so until the value is dropped.
    ///
    /// # Errors
    /// EBUSY after 5 s.
    pub fn reserve(&self, pid: i32) -> Result<Reserved<'_>, Refusal> {
        let deadline = Instant::now() + PATIENCE;
        let mut taken = self.taken.lock();
        while !taken.insert(pid) {
            if self.freed.wait_until(&mut taken, deadline).timed_out() {
                return Err(Refusal::new(Why::Busy, format!("process {pid} is being moved")));
            }
        }
        Ok(Reserved { all: self, pid })
    }
}

/// A reserved PID.
#[derive(Debug)]
pub struct Reserved<'a> {
    all: &'a Reservations,
    pid: i32,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.all.taken.lock().remove(&self.pid);
        self.all.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_reserved_is_free_again_when_dropped() {
        let all = Reservations::default();
        let first = all.reserve(7).expect("free");
        let _other = all.reserve(8).expect("another one is free");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| all.reserve(7).map(drop));
            drop(first);
            assert_eq!(waiting.join().expect("no panic"), Ok(()));
        });
    }
}
