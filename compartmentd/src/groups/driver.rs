//! A group's worker as the controller needs it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use guest_sched::host::proto::GuestClass;
use guest_sched::host::{Event, GroupConfig, GroupStat, Snapshot, Worker};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use parking_lot::Mutex;

use crate::errno::Refusal;
use crate::supervise::liveness;

/// What the controller asks of a worker. Every call may be made from several threads.
pub trait Driver: Send + Sync {
    /// Takes in a process.
    ///
    /// # Errors
    /// Any of the worker's.
    fn join(&self, pid: i32, start_time: u64) -> Result<(), Refusal>;
    /// Lets a process go, everything restored.
    ///
    /// # Errors
    /// Any of the worker's.
    fn leave(&self, pid: i32) -> Result<(), Refusal>;
    /// Sets a member's guest nice.
    ///
    /// # Errors
    /// Any of the worker's.
    fn set_nice(&self, pid: i32, nice: i8) -> Result<(), Refusal>;
    /// Sets a member's guest class.
    ///
    /// # Errors
    /// Any of the worker's.
    fn set_class(&self, pid: i32, class: GuestClass) -> Result<(), Refusal>;
    /// Replaces what is set of the group.
    ///
    /// # Errors
    /// Any of the worker's.
    fn configure(&self, config: &GroupConfig) -> Result<(), Refusal>;
    /// Has the worker publish everything.
    ///
    /// # Errors
    /// Any of the worker's.
    fn sync(&self) -> Result<(), Refusal>;
    /// Lets every member go and ends the worker.
    ///
    /// # Errors
    /// Any of the worker's.
    fn dissolve(&self) -> Result<(), Refusal>;
    /// Takes in another group as one task.
    ///
    /// # Errors
    /// Any of the workers'.
    fn nest(&self, pid: i32, inner: &dyn Driver) -> Result<(), Refusal>;
    /// Makes the group free of the one it is nested in.
    ///
    /// # Errors
    /// Any of the worker's.
    fn ungate(&self) -> Result<(), Refusal>;
    /// Gives what was published last.
    fn snapshot(&self) -> Snapshot;
    /// Gives the counters published last.
    fn stat(&self) -> GroupStat;
    /// Tells a fake that a fake has nested it; real workers tell each other.
    #[doc(hidden)]
    fn configure_gate(&self, _is_gated: bool) {}
    /// Gives the real worker, if it is one.
    fn worker(&self) -> Option<&Worker> {
        None
    }
}

impl Driver for Worker {
    fn join(&self, pid: i32, start_time: u64) -> Result<(), Refusal> {
        Ok(Self::join(self, pid, start_time)?)
    }
    fn leave(&self, pid: i32) -> Result<(), Refusal> {
        Ok(Self::leave(self, pid)?)
    }
    fn set_nice(&self, pid: i32, nice: i8) -> Result<(), Refusal> {
        Ok(Self::set_nice(self, pid, nice)?)
    }
    fn set_class(&self, pid: i32, class: GuestClass) -> Result<(), Refusal> {
        Ok(Self::set_class(self, pid, class)?)
    }
    fn configure(&self, config: &GroupConfig) -> Result<(), Refusal> {
        Ok(Self::configure(self, config)?)
    }
    fn sync(&self) -> Result<(), Refusal> {
        Ok(Self::sync(self)?)
    }
    fn dissolve(&self) -> Result<(), Refusal> {
        Ok(Self::dissolve(self)?)
    }
    fn nest(&self, pid: i32, inner: &dyn Driver) -> Result<(), Refusal> {
        let inner = inner.worker().ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        Ok(Self::nest(self, pid, inner)?)
    }
    fn ungate(&self) -> Result<(), Refusal> {
        Ok(Self::ungate(self)?)
    }
    fn snapshot(&self) -> Snapshot {
        Self::snapshot(self)
    }
    fn stat(&self) -> GroupStat {
        Self::stat(self)
    }
    fn worker(&self) -> Option<&Worker> {
        Some(self)
    }
}

/// A worker with what it reports. The events end when the connection does.
pub type Launched = (Arc<dyn Driver>, Receiver<Event>);

/// Starts workers and finds them again.
pub trait Launcher: Send + Sync {
    /// Starts keeper and worker over a state directory.
    ///
    /// # Errors
    /// Any.
    fn spawn(&self, dir: &Path, config: &GroupConfig) -> Result<Launched, Refusal>;

    /// Finds the worker of a state directory; waits for one that its keeper is starting.
    ///
    /// # Errors
    /// Any; soon, if keeper and worker are both dead.
    fn connect(&self, dir: &Path) -> Result<Launched, Refusal>;

    /// Resumes whatever keeper and worker, both dead, left parked.
    ///
    /// # Errors
    /// Any.
    fn recover(&self, dir: &Path) -> Result<Vec<i32>, Refusal>;

    /// Ends what is left of a group whose worker does not answer.
    fn kill(&self, dir: &Path);

    /// Takes the exit status of keepers that have ended.
    fn reap(&self) {}
}

/// How often the processes of a group are killed before that is left at it.
const KILLS_MAX: usize = 200;

/// Starts real workers with the multi-call binary.
#[derive(Debug)]
pub struct Workers {
    exe: PathBuf,
    keepers: Mutex<Vec<i32>>,
}

impl Workers {
    /// Uses `exe` to start keepers.
    pub fn new(exe: PathBuf) -> Self {
        Self { exe, keepers: Mutex::default() }
    }
}

impl Launcher for Workers {
    fn spawn(&self, dir: &Path, config: &GroupConfig) -> Result<Launched, Refusal> {
        let (tx, rx) = channel();
        let worker = Worker::spawn(&self.exe, dir, config, tx)?;
        self.keepers.lock().push(worker.stat().keeper_pid);
        Ok((Arc::new(worker), rx))
    }

    fn connect(&self, dir: &Path) -> Result<Launched, Refusal> {
        liveness::wait_for_worker(dir)?;
        let (tx, rx) = channel();
        Ok((Arc::new(Worker::connect(dir, tx)?), rx))
    }

    fn recover(&self, dir: &Path) -> Result<Vec<i32>, Refusal> {
        Ok(crate::supervise::recover_group(dir)?)
    }

    fn kill(&self, dir: &Path) {
        // Until none is left: a keeper may have started another worker meanwhile.
        for _ in 0..KILLS_MAX {
            let pids = liveness::processes_of(dir);
            if pids.is_empty() {
                return;
            }
            for pidfd in pids.iter().filter_map(|pid| host_sys::Pidfd::open(*pid).ok()) {
                let _ = pidfd.signal(libc::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn reap(&self) {
        self.keepers.lock().retain(|pid| {
            matches!(waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
        });
    }
}
