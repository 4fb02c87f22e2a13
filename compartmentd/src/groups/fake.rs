//! Made-up processes and workers, for tests of everything above them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use guest_sched::TaskState;
use guest_sched::host::client::read_config;
use guest_sched::host::proto::GuestClass;
use guest_sched::host::table::{HostParams, Parked};
use guest_sched::host::{Event, GroupConfig, GroupStat, Member, Snapshot};
use parking_lot::Mutex;

use super::driver::{Driver, Launched, Launcher};
use super::host::{Creds, Host, Process};
use crate::errno::{Refusal, Why};

/// Processes that exist because a test says so.
#[derive(Debug, Default)]
pub struct FakeHost {
    processes: Mutex<BTreeMap<i32, (Process, Creds)>>,
}

impl FakeHost {
    /// Adds a process of a user, started at time `pid`.
    pub fn add(&self, pid: i32, uid: u32) {
        self.add_child(pid, uid, 1);
    }

    /// Adds a process with a parent.
    pub fn add_child(&self, pid: i32, uid: u32, ppid: i32) {
        let process = Process { pid, start_time: pid as u64, ppid, is_kernel_thread: false };
        let creds = Creds { ruid: uid, euid: uid, suid: uid, gid: uid, is_dumpable: true };
        self.processes.lock().insert(pid, (process, creds));
    }

    /// Changes whose a process is.
    pub fn set_creds(&self, pid: i32, creds: Creds) {
        if let Some(entry) = self.processes.lock().get_mut(&pid) {
            entry.1 = creds;
        }
    }

    /// Changes what a process is.
    pub fn change(&self, pid: i32, change: impl FnOnce(&mut Process)) {
        if let Some(entry) = self.processes.lock().get_mut(&pid) {
            change(&mut entry.0);
        }
    }

    /// Ends a process.
    pub fn end(&self, pid: i32) {
        self.processes.lock().remove(&pid);
    }
}

impl Host for FakeHost {
    fn process(&self, pid: i32) -> Option<Process> {
        self.processes.lock().get(&pid).map(|entry| entry.0)
    }
    fn creds(&self, pid: i32) -> Option<Creds> {
        self.processes.lock().get(&pid).map(|entry| entry.1)
    }
    fn thread_group(&self, tid: i32) -> Option<i32> {
        Some(tid)
    }
    fn pids(&self) -> Vec<i32> {
        self.processes.lock().keys().copied().collect()
    }
    fn nice_limit(&self, _pid: i32) -> i64 {
        0
    }
}

/// A plain member.
pub fn member(pid: i32, start_time: u64) -> Member {
    Member {
        pid,
        tid: pid,
        start_time,
        parked: Parked::No,
        nice: 0,
        class: GuestClass::Normal,
        state: TaskState::Running,
        static_prio: 120,
        prio: 120,
        bonus: 5,
        is_interactive: false,
        sleep_avg_ns: 0,
        slice_left_ns: 100_000_000,
        usage_ns: 0,
        wait_ns: 0,
        nr_switches: 0,
        host: HostParams::default(),
        is_group: false,
        is_runnable: true,
    }
}

#[derive(Debug, Default)]
struct Inside {
    members: BTreeMap<i32, Member>,
    config: GroupConfig,
    is_gated: bool,
    refuse_joins: bool,
    events: Option<Sender<Event>>,
    stat: GroupStat,
}

/// A worker that only remembers.
#[derive(Debug, Default)]
pub struct FakeWorker {
    inside: Mutex<Inside>,
}

impl FakeWorker {
    /// Lists its members.
    pub fn pids(&self) -> Vec<i32> {
        self.inside.lock().members.keys().copied().collect()
    }

    /// Gives its configuration.
    pub fn config(&self) -> GroupConfig {
        self.inside.lock().config.clone()
    }

    /// Whether another worker schedules it.
    pub fn is_gated(&self) -> bool {
        self.inside.lock().is_gated
    }

    /// Has it refuse whoever wants to join.
    pub fn refuse_joins(&self, refuse: bool) {
        self.inside.lock().refuse_joins = refuse;
    }

    /// Reports an event; a fork makes the child a member.
    pub fn report(&self, event: Event) {
        let mut inside = self.inside.lock();
        match &event {
            Event::Forked { child, .. } => {
                inside.members.insert(*child, member(*child, *child as u64));
            }
            Event::Exited { pid } => {
                inside.members.remove(pid);
            }
            _ => {}
        }
        if let Some(events) = &inside.events {
            let _ = events.send(event);
        }
    }

    /// Makes a member that is not told of.
    pub fn fork_silently(&self, child: i32) {
        self.inside.lock().members.insert(child, member(child, child as u64));
    }

    /// Breaks the connection, as a death does.
    pub fn die(&self) {
        self.inside.lock().events = None;
    }
}

fn not_a_member(pid: i32) -> Refusal {
    Refusal::new(Why::NoProcess, format!("{pid} is no member"))
}

impl Driver for FakeWorker {
    fn join(&self, pid: i32, start_time: u64) -> Result<(), Refusal> {
        let mut inside = self.inside.lock();
        if inside.refuse_joins {
            return Err(Refusal::new(Why::Unsupported, "told to refuse"));
        }
        match inside.members.insert(pid, member(pid, start_time)) {
            None => Ok(()),
            Some(_) => Err(Refusal::new(Why::Busy, format!("{pid} is a member already"))),
        }
    }
    fn leave(&self, pid: i32) -> Result<(), Refusal> {
        self.inside.lock().members.remove(&pid).map(drop).ok_or_else(|| not_a_member(pid))
    }
    fn set_nice(&self, pid: i32, nice: i8) -> Result<(), Refusal> {
        let mut inside = self.inside.lock();
        inside.members.get_mut(&pid).map(|m| m.nice = nice).ok_or_else(|| not_a_member(pid))
    }
    fn set_class(&self, pid: i32, class: GuestClass) -> Result<(), Refusal> {
        let mut inside = self.inside.lock();
        inside.members.get_mut(&pid).map(|m| m.class = class).ok_or_else(|| not_a_member(pid))
    }
    fn configure(&self, config: &GroupConfig) -> Result<(), Refusal> {
        self.inside.lock().config = config.clone();
        Ok(())
    }
    fn sync(&self) -> Result<(), Refusal> {
        Ok(())
    }
    fn dissolve(&self) -> Result<(), Refusal> {
        let mut inside = self.inside.lock();
        inside.members.clear();
        inside.events = None;
        Ok(())
    }
    fn nest(&self, pid: i32, inner: &dyn Driver) -> Result<(), Refusal> {
        self.join(pid, 0)?;
        inner.configure_gate(true);
        Ok(())
    }
    fn ungate(&self) -> Result<(), Refusal> {
        self.inside.lock().is_gated = false;
        Ok(())
    }
    fn configure_gate(&self, is_gated: bool) {
        self.inside.lock().is_gated = is_gated;
    }
    fn snapshot(&self) -> Snapshot {
        let inside = self.inside.lock();
        Snapshot { stat: inside.stat, members: inside.members.values().copied().collect() }
    }
    fn stat(&self) -> GroupStat {
        self.inside.lock().stat
    }
}

/// Starts fake workers; one per state directory.
#[derive(Debug, Default)]
pub struct FakeLauncher {
    workers: Mutex<HashMap<PathBuf, Arc<FakeWorker>>>,
    last_pid: Mutex<i32>,
    /// Makes the workers' processes, if there is a made-up host.
    pub host: Option<Arc<FakeHost>>,
}

impl FakeLauncher {
    /// Starts workers whose processes are on `host`.
    pub fn on(host: Arc<FakeHost>) -> Self {
        Self { host: Some(host), ..Self::default() }
    }

    /// Gives the worker of a state directory.
    pub fn worker(&self, dir: &Path) -> Option<Arc<FakeWorker>> {
        self.workers.lock().get(dir).cloned()
    }

    fn attach(&self, dir: &Path, worker: &Arc<FakeWorker>) -> Launched {
        let (tx, rx) = channel();
        worker.inside.lock().events = Some(tx);
        self.workers.lock().insert(dir.to_owned(), worker.clone());
        (worker.clone(), rx)
    }
}

impl Launcher for FakeLauncher {
    fn spawn(&self, dir: &Path, config: &GroupConfig) -> Result<Launched, Refusal> {
        std::fs::write(
            dir.join(guest_sched::host::proto::CONFIG),
            serde_json::to_vec(config).unwrap_or_default(),
        )?;
        let worker = Arc::new(FakeWorker::default());
        worker.inside.lock().config = config.clone();
        if let Some(host) = &self.host {
            let mut last = self.last_pid.lock();
            *last += 2;
            let (keeper, pid) = (900_000 + *last, 900_001 + *last);
            host.add(keeper, 0);
            host.add(pid, 0);
            let stat = GroupStat { worker_pid: pid, keeper_pid: keeper, ..GroupStat::default() };
            worker.inside.lock().stat = stat;
        }
        Ok(self.attach(dir, &worker))
    }

    fn connect(&self, dir: &Path) -> Result<Launched, Refusal> {
        match self.worker(dir) {
            Some(worker) => Ok(self.attach(dir, &worker)),
            // A test's second daemon: the worker is made anew of its configuration.
            None => self.spawn(dir, &read_config(dir)?),
        }
    }

    fn recover(&self, _dir: &Path) -> Result<Vec<i32>, Refusal> {
        Ok(Vec::new())
    }

    fn kill(&self, dir: &Path) {
        self.workers.lock().remove(dir);
    }
}
