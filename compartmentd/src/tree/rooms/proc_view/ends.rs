//! The ends of processes whose directories the kernel remembers: it is told at once, so that what is there no more is not found for a while longer.
//!
//! A process is watched by a pidfd from when its entry is given to the kernel until some time after the kernel has forgotten it by itself. That of a
//! young one is not remembered at all: most that end soon are young, and whoever looks at them may be faster than we are.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use host_sys::{Pidfd, process};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit};
use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;

use crate::notices::{Notice, Notices};
use crate::tree::room::TTL;

/// More processes are not watched, nor more than a part of our descriptors: the kernel may find them for as long as [`TTL`] after their end.
const WATCHED_MAX: u64 = 8_192;
const PART_OF_FDS: u64 = 4;
/// For how long a process is watched after its entry was last given; longer than [`TTL`], so that its age is not asked for again each time.
const KEPT: Duration = Duration::from_secs(60);
/// Until that age a process is young.
const YOUNG: Duration = Duration::from_secs(1);
/// The unit of times in `/proc`, `USER_HZ`.
const TICK: Duration = Duration::from_millis(10);
/// How often to look who need not be watched.
const SWEEP: Duration = Duration::from_secs(2);
const EVENTS: usize = 64;

/// Who is watched.
#[derive(Debug)]
pub(super) struct Ends {
    epoll: Epoll,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    watched: HashMap<i32, Watch>,
    swept: Instant,
}

#[derive(Debug)]
struct Watch {
    given: Instant,
    /// When it is no longer young.
    old_from: Instant,
    /// Gone when it has ended: nobody may have waited for it yet, so that it is still there.
    pidfd: Option<Pidfd>,
}

impl State {
    /// Lets those go that nobody has asked for lately.
    fn sweep(&mut self) {
        if self.swept.elapsed() >= SWEEP {
            // One that has ended gives its place to a later process of that number.
            self.watched.retain(|_, watch| watch.pidfd.is_some() && watch.given.elapsed() < KEPT);
            self.swept = Instant::now();
        }
    }
}

impl Ends {
    /// Begins to watch.
    ///
    /// # Errors
    /// Those of `epoll_create` and of starting a thread.
    pub(super) fn watch(notices: Notices) -> io::Result<Arc<Self>> {
        let state = State { watched: HashMap::new(), swept: Instant::now() };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let ends = Arc::new(Self { epoll, state: Mutex::new(state) });
        let watching = ends.clone();
        thread::Builder::new().name("ends".into()).spawn(move || watching.run(&notices))?;
        Ok(ends)
    }

    /// Says how long the kernel may remember the entry of a process that it is given now.
    pub(super) fn given(&self, pid: i32) -> Duration {
        let mut state = self.state.lock();
        state.sweep();
        let now = Instant::now();
        if let Some(watch) = state.watched.get_mut(&pid) {
            watch.given = now;
            return if watch.pidfd.is_some() && now >= watch.old_from { TTL } else { Duration::ZERO };
        }
        if state.watched.len() as u64 >= watched_max() {
            return TTL;
        }
        // Threads have entries as well, and no pidfds.
        let (Ok(pidfd), Some(age)) = (Pidfd::open(pid), age(pid)) else { return Duration::ZERO };
        if self.epoll.add(&pidfd, EpollEvent::new(EpollFlags::EPOLLIN, pid as u64)).is_err() {
            return Duration::ZERO;
        }
        let old_from = now + YOUNG.saturating_sub(age);
        state.watched.insert(pid, Watch { given: now, old_from, pidfd: Some(pidfd) });
        if now >= old_from { TTL } else { Duration::ZERO }
    }

    fn run(&self, notices: &Notices) {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let n = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(n) => n,
                Err(nix::Error::EINTR) => 0,
                Err(error) => {
                    tracing::error!(%error, "ends of processes are no longer told");
                    return;
                }
            };
            let mut state = self.state.lock();
            for event in &events[..n] {
                let pid = event.data() as i32;
                if let Some(watch) = state.watched.get_mut(&pid) {
                    // Closed, it is no longer waited for.
                    watch.pidfd = None;
                }
                notices.post(Notice::Ended(pid));
            }
            state.sweep();
        }
    }
}

fn watched_max() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| WATCHED_MAX.min(soft / PART_OF_FDS))
}

/// Gives for how long a process has been there.
fn age(pid: i32) -> Option<Duration> {
    let ticks = u32::try_from(process::stat(pid).ok()?.start_time).unwrap_or(u32::MAX);
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    Some(Duration::from(now).saturating_sub(TICK.saturating_mul(ticks)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn end_of_a_process_is_told_and_it_is_not_remembered_again() {
        let (notices, told) = Notices::new();
        let ends = Ends::watch(notices).expect("an epoll");
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = child.id() as i32;

        let deadline = Instant::now() + Duration::from_secs(10);
        assert_eq!(ends.given(pid), Duration::ZERO, "it is young");
        while ends.given(pid) != TTL {
            assert!(Instant::now() < deadline, "it is older than a second");
            thread::sleep(Duration::from_millis(10));
        }
        child.kill().expect("a child");
        assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(Notice::Ended(pid)));

        // Nobody has waited for it.
        assert_eq!(ends.given(pid), Duration::ZERO);
        child.wait().expect("a child");
        assert_eq!(ends.given(0x3f_fff0), Duration::ZERO, "there is no such process");
    }
}
