//! Made-up processes and workers, for tests of everything above them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use guest_sched::TaskState;
use guest_sched::host::proto::GuestClass;
use guest_sched::host::table::{HostParams, Parked};
use guest_sched::host::{GroupStat, Member, Snapshot};
use parking_lot::Mutex;
use serde::Serialize;

use super::driver::{Driver, Launched, Launcher, SchedDriver};
use super::host::{Creds, Host, Process};
use super::kind::Kind;
use super::listen::Told;
use super::sched::Sched;
use super::task::View;
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

/// A kind of group that can be made up.
pub trait FakeKind: Kind<Config: Default + Serialize, Event: Clone + Debug> {
    /// A member as a worker publishes it.
    type Member: Clone + Debug + Send;
    /// Counters.
    type Stat: Default + Copy + Debug + Send;
    /// What else its worker remembers.
    type Extra: Default + Debug + Send;

    /// The first PID of its keepers.
    const PIDS: i32;
    /// The file of what is set of a group.
    const CONFIG: &'static str;

    /// Makes a plain member.
    fn member(pid: i32, start_time: u64) -> Self::Member;

    /// Makes what is published.
    fn view(stat: Self::Stat, members: Vec<Self::Member>) -> Self::View;

    /// Gives a worker as the controller has it.
    fn driver(worker: Arc<FakeOf<Self>>) -> Arc<Self::Driver>;
}

impl FakeKind for Sched {
    type Member = Member;
    type Stat = GroupStat;
    /// Whether another worker schedules it.
    type Extra = bool;

    const PIDS: i32 = 900_000;
    const CONFIG: &'static str = guest_sched::host::proto::CONFIG;

    fn member(pid: i32, start_time: u64) -> Member {
        member(pid, start_time)
    }

    fn view(stat: GroupStat, members: Vec<Member>) -> View {
        View::from(Snapshot { stat, members })
    }

    fn driver(worker: Arc<FakeWorker>) -> Arc<dyn SchedDriver> {
        worker
    }
}

/// What a made-up worker remembers.
#[derive(Debug)]
pub struct Inside<K: FakeKind> {
    /// Its members.
    pub members: BTreeMap<i32, K::Member>,
    /// What is set of it.
    pub config: K::Config,
    /// What is its kind's alone.
    pub extra: K::Extra,
    /// Counters.
    pub stat: K::Stat,
    refuse_joins: Option<Why>,
    keeper_pid: i32,
    worker_pid: i32,
    events: Option<Sender<K::Event>>,
}

/// A worker that only remembers.
#[derive(Debug)]
pub struct FakeOf<K: FakeKind> {
    inside: Mutex<Inside<K>>,
}

/// A made-up worker of a guest scheduler.
pub type FakeWorker = FakeOf<Sched>;

impl<K: FakeKind> FakeOf<K> {
    fn new(config: K::Config) -> Self {
        Self {
            inside: Mutex::new(Inside {
                members: BTreeMap::new(),
                config,
                extra: K::Extra::default(),
                stat: K::Stat::default(),
                refuse_joins: None,
                keeper_pid: 0,
                worker_pid: 0,
                events: None,
            }),
        }
    }

    /// Looks at, or changes, what it remembers.
    pub fn inside<T>(&self, with: impl FnOnce(&mut Inside<K>) -> T) -> T {
        with(&mut self.inside.lock())
    }

    /// Lists its members.
    pub fn pids(&self) -> Vec<i32> {
        self.inside.lock().members.keys().copied().collect()
    }

    /// Gives its configuration.
    pub fn config(&self) -> K::Config {
        self.inside.lock().config.clone()
    }

    /// Has it refuse whoever wants to join.
    pub fn refuse_joins(&self, refuse: bool) {
        self.refuse_joins_for(refuse.then_some(Why::Unsupported));
    }

    /// Has it refuse whoever wants to join for this reason.
    pub fn refuse_joins_for(&self, why: Option<Why>) {
        self.inside.lock().refuse_joins = why;
    }

    /// Reports an event; a fork makes the child a member.
    pub fn report(&self, event: K::Event) {
        let mut inside = self.inside.lock();
        match event.clone().into() {
            Told::Forked { child, .. } => {
                inside.members.insert(child, K::member(child, child as u64));
            }
            Told::Exited { pid } => {
                inside.members.remove(&pid);
            }
            _ => {}
        }
        if let Some(events) = &inside.events {
            let _ = events.send(event);
        }
    }

    /// Makes a member that is not told of.
    pub fn fork_silently(&self, child: i32) {
        self.inside.lock().members.insert(child, K::member(child, child as u64));
    }

    /// Breaks the connection, as a death does.
    pub fn die(&self) {
        self.inside.lock().events = None;
    }
}

impl FakeWorker {
    /// Whether another worker schedules it.
    pub fn is_gated(&self) -> bool {
        self.inside.lock().extra
    }
}

fn not_a_member(pid: i32) -> Refusal {
    Refusal::new(Why::NoProcess, format!("{pid} is no member"))
}

impl<K: FakeKind> Driver<K> for FakeOf<K> {
    fn join(&self, pid: i32, start_time: u64) -> Result<(), Refusal> {
        let mut inside = self.inside.lock();
        if let Some(why) = inside.refuse_joins {
            return Err(Refusal::new(why, "told to refuse"));
        }
        match inside.members.insert(pid, K::member(pid, start_time)) {
            None => Ok(()),
            Some(_) => Err(Refusal::new(Why::Busy, format!("{pid} is a member already"))),
        }
    }
    fn leave(&self, pid: i32) -> Result<(), Refusal> {
        self.inside.lock().members.remove(&pid).map(drop).ok_or_else(|| not_a_member(pid))
    }
    fn configure(&self, config: &K::Config) -> Result<(), Refusal> {
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
    fn view(&self) -> K::View {
        let inside = self.inside.lock();
        K::view(inside.stat, inside.members.values().cloned().collect())
    }
    fn worker_pid(&self) -> i32 {
        self.inside.lock().worker_pid
    }
    fn keeper_pid(&self) -> i32 {
        self.inside.lock().keeper_pid
    }
}

impl SchedDriver for FakeWorker {
    fn set_nice(&self, pid: i32, nice: i8) -> Result<(), Refusal> {
        let mut inside = self.inside.lock();
        inside.members.get_mut(&pid).map(|m| m.nice = nice).ok_or_else(|| not_a_member(pid))
    }
    fn set_class(&self, pid: i32, class: GuestClass) -> Result<(), Refusal> {
        let mut inside = self.inside.lock();
        inside.members.get_mut(&pid).map(|m| m.class = class).ok_or_else(|| not_a_member(pid))
    }
    fn nest(&self, pid: i32, inner: &dyn SchedDriver) -> Result<(), Refusal> {
        self.join(pid, 0)?;
        inner.configure_gate(true);
        Ok(())
    }
    fn ungate(&self) -> Result<(), Refusal> {
        self.inside.lock().extra = false;
        Ok(())
    }
    fn configure_gate(&self, is_gated: bool) {
        self.inside.lock().extra = is_gated;
    }
    fn stat(&self) -> GroupStat {
        self.inside.lock().stat
    }
}

/// Starts fake workers; one per state directory.
#[derive(Debug)]
pub struct Fakes<K: FakeKind> {
    workers: Mutex<HashMap<PathBuf, Arc<FakeOf<K>>>>,
    last_pid: Mutex<i32>,
    /// Makes the workers' processes, if there is a made-up host.
    pub host: Option<Arc<FakeHost>>,
}

/// Starts made-up workers of guest schedulers.
pub type FakeLauncher = Fakes<Sched>;

impl<K: FakeKind> Default for Fakes<K> {
    fn default() -> Self {
        Self { workers: Mutex::default(), last_pid: Mutex::default(), host: None }
    }
}

impl<K: FakeKind> Fakes<K> {
    /// Starts workers whose processes are on `host`.
    pub fn on(host: Arc<FakeHost>) -> Self {
        Self { host: Some(host), ..Self::default() }
    }

    /// Gives the worker of a state directory.
    pub fn worker(&self, dir: &Path) -> Option<Arc<FakeOf<K>>> {
        self.workers.lock().get(dir).cloned()
    }

    fn attach(&self, dir: &Path, worker: &Arc<FakeOf<K>>) -> Launched<K> {
        let (tx, rx) = channel();
        worker.inside.lock().events = Some(tx);
        self.workers.lock().insert(dir.to_owned(), worker.clone());
        (K::driver(worker.clone()), rx)
    }
}

impl<K: FakeKind> Launcher<K> for Fakes<K> {
    fn spawn(&self, dir: &Path, config: &K::Config) -> Result<Launched<K>, Refusal> {
        std::fs::write(dir.join(K::CONFIG), serde_json::to_vec(config).unwrap_or_default())?;
        let worker = Arc::new(FakeOf::<K>::new(config.clone()));
        if let Some(host) = &self.host {
            let mut last = self.last_pid.lock();
            *last += 2;
            let (keeper, pid) = (K::PIDS + *last, K::PIDS + 1 + *last);
            host.add(keeper, 0);
            host.add(pid, 0);
            worker.inside(|inside| (inside.keeper_pid, inside.worker_pid) = (keeper, pid));
        }
        Ok(self.attach(dir, &worker))
    }

    fn connect(&self, dir: &Path) -> Result<Launched<K>, Refusal> {
        match self.worker(dir) {
            Some(worker) => Ok(self.attach(dir, &worker)),
            // A test's second daemon: the worker is made anew of its configuration.
            None => self.spawn(dir, &K::load(dir)?),
        }
    }

    fn recover(&self, _dir: &Path) -> Result<Vec<i32>, Refusal> {
        Ok(Vec::new())
    }

    fn kill(&self, dir: &Path) {
        self.workers.lock().remove(dir);
    }
}
