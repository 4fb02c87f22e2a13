//! A group's worker as the controller needs it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use guest_sched::host::proto::GuestClass;
use guest_sched::host::table::Table;
use guest_sched::host::{GroupConfig, GroupStat, Worker};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use parking_lot::Mutex;

use super::kind::Kind;
use super::sched::Sched;
use super::task::View;
use crate::errno::Refusal;
use crate::supervise::liveness;

/// What the controller asks of a worker of any kind. Every call may be made from several threads.
pub trait Driver<K: Kind>: Send + Sync {
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
    /// Replaces what is set of the group.
    ///
    /// # Errors
    /// Any of the worker's.
    fn configure(&self, config: &K::Config) -> Result<(), Refusal>;
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
    /// Gives what was published last.
    fn view(&self) -> K::View;
    /// Gives the worker's PID; 0 while there is none.
    fn worker_pid(&self) -> i32;
    /// Gives the keeper's PID; 0 while there is none.
    fn keeper_pid(&self) -> i32;
}

/// What is asked of a guest scheduler's worker alone.
pub trait SchedDriver: Driver<Sched> {
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
    /// Takes in another group as one task.
    ///
    /// # Errors
    /// Any of the workers'.
    fn nest(&self, pid: i32, inner: &dyn SchedDriver) -> Result<(), Refusal>;
    /// Makes the group free of the one it is nested in.
    ///
    /// # Errors
    /// Any of the worker's.
    fn ungate(&self) -> Result<(), Refusal>;
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

/// Implements [`Driver`] for a real worker by its methods of the same names.
macro_rules! drive_by_methods {
    ($worker:ty, $kind:ty, view: $view:expr, pids: $worker_pid:expr, $keeper_pid:expr) => {
        impl $crate::groups::Driver<$kind> for $worker {
            fn join(&self, pid: i32, start_time: u64) -> Result<(), $crate::errno::Refusal> {
                Ok(Self::join(self, pid, start_time)?)
            }
            fn leave(&self, pid: i32) -> Result<(), $crate::errno::Refusal> {
                Ok(Self::leave(self, pid)?)
            }
            fn configure(
                &self,
                config: &<$kind as $crate::groups::Kind>::Config,
            ) -> Result<(), $crate::errno::Refusal> {
                Ok(Self::configure(self, config)?)
            }
            fn sync(&self) -> Result<(), $crate::errno::Refusal> {
                Ok(Self::sync(self)?)
            }
            fn dissolve(&self) -> Result<(), $crate::errno::Refusal> {
                Ok(Self::dissolve(self)?)
            }
            fn view(&self) -> <$kind as $crate::groups::Kind>::View {
                let view: fn(&Self) -> _ = $view;
                view(self)
            }
            fn worker_pid(&self) -> i32 {
                let pid: fn(&Self) -> i32 = $worker_pid;
                pid(self)
            }
            fn keeper_pid(&self) -> i32 {
                let pid: fn(&Self) -> i32 = $keeper_pid;
                pid(self)
            }
        }
    };
}
pub(crate) use drive_by_methods;

drive_by_methods!(
    Worker, Sched,
    view: |worker| View::from(worker.snapshot()),
    pids: |worker| worker.stat().worker_pid, |worker| worker.stat().keeper_pid
);

impl SchedDriver for Worker {
    fn set_nice(&self, pid: i32, nice: i8) -> Result<(), Refusal> {
        Ok(Self::set_nice(self, pid, nice)?)
    }
    fn set_class(&self, pid: i32, class: GuestClass) -> Result<(), Refusal> {
        Ok(Self::set_class(self, pid, class)?)
    }
    fn nest(&self, pid: i32, inner: &dyn SchedDriver) -> Result<(), Refusal> {
        let inner = inner.worker().ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        Ok(Self::nest(self, pid, inner)?)
    }
    fn ungate(&self) -> Result<(), Refusal> {
        Ok(Self::ungate(self)?)
    }
    fn stat(&self) -> GroupStat {
        Self::stat(self)
    }
    fn worker(&self) -> Option<&Worker> {
        Some(self)
    }
}

/// A worker with what it reports. The events end when the connection does.
pub type Launched<K = Sched> = (Arc<<K as Kind>::Driver>, Receiver<<K as Kind>::Event>);

/// Starts workers and finds them again.
pub trait Launcher<K: Kind = Sched>: Send + Sync {
    /// Starts keeper and worker over a state directory.
    ///
    /// # Errors
    /// Any.
    fn spawn(&self, dir: &Path, config: &K::Config) -> Result<Launched<K>, Refusal>;

    /// Finds the worker of a state directory; waits for one that its keeper is starting.
    ///
    /// # Errors
    /// Any; soon, if keeper and worker are both dead.
    fn connect(&self, dir: &Path) -> Result<Launched<K>, Refusal>;

    /// Makes good what keeper and worker, dead or of no more use, left behind: gives the processes that were parked and run again.
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

impl Workers {
    /// Gives the multi-call binary.
    pub(crate) fn exe(&self) -> &Path {
        &self.exe
    }

    /// Remembers a keeper that was started.
    pub(crate) fn started(&self, keeper: i32) {
        self.keepers.lock().push(keeper);
    }

    /// Takes the exit status of keepers that have ended.
    pub(crate) fn reap_keepers(&self) {
        self.keepers.lock().retain(|pid| {
            matches!(waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
        });
    }
}

/// Ends the keeper and worker of a state directory: until none is left, for a keeper may have started another worker meanwhile.
pub(crate) fn kill_keepers(dir: &Path) {
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

impl Launcher for Workers {
    fn spawn(&self, dir: &Path, config: &GroupConfig) -> Result<Launched, Refusal> {
        let (tx, rx) = channel();
        let worker = Worker::spawn(&self.exe, dir, config, tx)?;
        self.started(worker.stat().keeper_pid);
        Ok((Arc::new(worker), rx))
    }

    fn connect(&self, dir: &Path) -> Result<Launched, Refusal> {
        let table = Table::open(dir).map_err(io::Error::other)?;
        let pids = || {
            let stat = table.stat();
            (stat.keeper_pid, stat.worker_pid)
        };
        liveness::wait_for_worker(dir, pids, || table.has_parked())?;
        let (tx, rx) = channel();
        Ok((Arc::new(Worker::connect(dir, tx)?), rx))
    }

    fn recover(&self, dir: &Path) -> Result<Vec<i32>, Refusal> {
        // One that lives and does not answer is as good as dead.
        kill_keepers(dir);
        Ok(crate::supervise::recover_group(dir)?)
    }

    fn kill(&self, dir: &Path) {
        kill_keepers(dir);
    }

    fn reap(&self) {
        self.reap_keepers();
    }
}
