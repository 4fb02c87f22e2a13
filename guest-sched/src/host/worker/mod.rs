//! The worker: one loop that hears from the sensor, the clock, the daemon and its keeper, asks the policy, and parks and resumes.
//!
//! - [`dispatch`]: pure: the policy's picks against what the host does.
//! - [`members`]: which host thread is which task.
//! - `events`: what the sensor's records mean for the members.
//! - `join`: taking processes in and letting them go.
//! - `nest`: groups inside groups.
//! - `requests`: what the daemon asks.
//! - `timing`: charging, slices, the cap.
//! - [`meter`]: what was promised and what was got.
//! - `publish`: the table.

pub mod dispatch;
pub mod members;
pub mod meter;

mod audit;
mod events;
mod join;
mod nest;
mod parts;
mod publish;
mod requests;
mod timing;

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use host_sys::{Listener, Pidfd, process};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;

use self::dispatch::{Action, Dispatch, HostState};
use self::members::Members;
use self::meter::{Meter, Phase};
use self::parts::Parts;
pub(crate) use self::parts::tag;
use super::cgroup;
use super::park::Outcome;
use super::proto::{Event, GroupConfig, Message, SOCKET};
use super::sensor::Record;
use super::table::{CAPACITY, Table};
use super::watch::{Watch, own_time};
use crate::bandwidth::{Bandwidth, BandwidthState};
use crate::types::{Nanos, TaskId};

/// The most tasks a group may have.
pub const MAX_TASKS: usize = CAPACITY;

// Other tokens are the descriptors of connections, which are never that low: 0 to 2 are open from the start.
const TOKEN_SENSOR: u64 = 0;
const TOKEN_KEEPER: u64 = 1;
const TOKEN_LISTENER: u64 = 2;
const TOKEN_PARKER: u64 = u64::MAX;

/// What ends the loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The daemon has dissolved the group.
    Dissolved,
    /// The keeper died: a new one is to take over.
    KeeperDied,
}

/// The keeper as its worker sees it.
struct Keeper {
    pid: i32,
    pidfd: Pidfd,
    watch: Watch,
}

/// A group's worker.
struct Worker {
    state_dir: PathBuf,
    table: Arc<Table>,
    /// Calls the keeper, see [`Table::set_beat`]. Never closed here: the descriptor is the keeper's too.
    bell: ManuallyDrop<EventFd>,
    keeper: Keeper,
    config: GroupConfig,
    parts: Parts,
    dispatch: Dispatch,
    members: Members,
    bandwidth: Bandwidth,
    is_throttled: bool,
    meter: Meter,
    listener: Listener,
    clients: Vec<requests::Client>,
    inners: Vec<nest::Inner>,
    gate: Option<nest::Gate>,
    epoll: Epoll,
    ears: events::Ears,
    now: Nanos,
    /// When to charge whoever runs, and to look at the cap.
    deadline: Option<Nanos>,
    /// When to look whether those who were told to leave have left.
    leave_check: Option<Nanos>,
    audit: audit::Audit,
    /// CPU time per time of a member that runs, 0..=1: others on the host take the rest.
    rate: f64,
    usage: Nanos,
    nr_parks: u64,
    own_cpu: u64,
    /// The slice of a thread that has not asked the host for any.
    usual_runtime: u64,
    records: Vec<Record>,
    actions: Vec<Action>,
    /// Whether somebody wants to run, and when that was so last.
    is_busy: bool,
    busy_until: Nanos,
    /// Something was heard that the next round has to see to.
    is_unsettled: bool,
    /// The CPU this worker is pinned to, and on how many of the last records were from another one.
    follow: timing::Follow,
    /// Told to the first daemon that connects.
    restarted: Option<Event>,
    end: Option<End>,
}

/// Runs the worker of the group in `state_dir` until the group ends; `bell` calls its keeper. Gives the exit status.
pub(crate) fn run(state_dir: &Path, keeper: i32, bell: ManuallyDrop<EventFd>) -> i32 {
    match Worker::start(state_dir, keeper, bell).and_then(|mut worker| worker.run()) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(%error, "a worker ends");
            1
        }
    }
}

impl Worker {
    fn start(state_dir: &Path, keeper: i32, bell: ManuallyDrop<EventFd>) -> io::Result<Self> {
        let config = super::client::read_config(state_dir)?;
        let table = Arc::new(Table::create(state_dir).map_err(io::Error::other)?);
        let tag = parts::tag(state_dir);
        let mode = parts::choose(&config.forced);
        let before = join::Found::read(&table, &tag, state_dir);
        table.clear_all();
        let parts = Parts::open(&tag, &config, Arc::clone(&table), mode)?;
        let policy = crate::policy_by_name(&config.policy, config.vcpus.max(1))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let mut dispatch = Dispatch::new(policy, parts.mode.handover);
        dispatch.set_slice(config.slice_us.map(Nanos::from_micros));
        let now = Nanos(process::now());
        let mut bandwidth = Bandwidth::unlimited();
        bandwidth.set_vcpus(config.vcpus.max(1));
        let limit = config.cpu_max.quota_us.map(|quota| (quota, config.cpu_max.period_us));
        bandwidth.set_limit(limit, now).map_err(io::Error::other)?;
        let listener = Listener::bind(&state_dir.join(SOCKET))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let event = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        let usual_runtime = host_sys::sched::get(keeper).map_or(0, |attr| attr.runtime);
        let keeper = Keeper { pid: keeper, pidfd: Pidfd::open(keeper)?, watch: Watch::default() };
        epoll.add(&keeper.pidfd, event(TOKEN_KEEPER))?;
        epoll.add(&listener, event(TOKEN_LISTENER))?;
        let rings = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for fd in parts.sensor.notifiers() {
            rings.add(fd, event(TOKEN_SENSOR))?;
        }
        epoll.add(&rings.0, event(TOKEN_SENSOR))?;
        if let Some(fd) = parts.parker.notifier() {
            epoll.add(fd, event(TOKEN_PARKER))?;
        }
        parts::quiet_memory();
        let follow = timing::Follow::new(parts.favour);
        let mut worker = Self {
            state_dir: state_dir.to_owned(),
            table,
            bell,
            keeper,
            config,
            parts,
            dispatch,
            members: Members::default(),
            bandwidth,
            is_throttled: false,
            meter: Meter::new(now),
            listener,
            clients: Vec::new(),
            inners: Vec::new(),
            gate: None,
            epoll,
            ears: events::Ears::new(rings),
            now,
            deadline: None,
            leave_check: None,
            audit: audit::Audit::default(),
            rate: 1.0,
            usage: Nanos::ZERO,
            nr_parks: 0,
            own_cpu: process::own_cpu_time(),
            usual_runtime,
            records: Vec::with_capacity(4096),
            actions: Vec::with_capacity(256),
            is_busy: false,
            busy_until: Nanos::ZERO,
            is_unsettled: false,
            follow,
            restarted: None,
            end: None,
        };
        worker.publish_stat();
        worker.take_back(before);
        Ok(worker)
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 16];
        while self.end.is_none() {
            let timer = self.next_timer();
            let timeout = timer.map(|at| Duration::from_nanos(at.saturating_sub(self.tick_now()).0));
            self.beat(timer.unwrap_or(self.now));
            let n = process::epoll_wait(self.epoll.0.as_fd(), &mut events, timeout)?;
            self.tick_now();
            self.beat(self.now);
            for event in &events[..n] {
                match event.data() {
                    TOKEN_KEEPER => self.end = Some(End::KeeperDied),
                    TOKEN_LISTENER => self.accept(),
                    TOKEN_SENSOR => {}
                    TOKEN_PARKER => self.hear_parker(),
                    other => {
                        if !self.hear_link(other as i32) {
                            self.hear(other as i32);
                        }
                    }
                }
            }
            self.hear_sensor();
            self.run_timers();
            self.steer();
        }
        self.finish();
        Ok(())
    }

    fn tick_now(&mut self) -> Nanos {
        self.now = Nanos(process::now());
        self.now
    }

    /// Leaves a sign of life: until then nothing has to be heard of us. A group that holds nobody needs none.
    fn beat(&self, until: Nanos) {
        let is_holding = self.dispatch.policy().nr_running() > self.dispatch.on().len();
        if self.table.set_beat(if is_holding { until.0 } else { 0 }) {
            let _ = self.bell.write(1);
        }
    }

    /// Kills a keeper that is stopped or stuck: that it is dead is heard like any end of it.
    fn look_at_keeper(&mut self) {
        let Keeper { pid, pidfd, watch } = &mut self.keeper;
        if let Ok(look) = process::stat(*pid)
            && watch.is_hung(&look, self.table.keeper_beat(), self.now.0, || own_time(*pid))
        {
            tracing::error!(keeper = pid, state = %char::from(look.state), "a keeper hangs and is killed");
            let _ = pidfd.signal(libc::SIGKILL);
        }
    }

    /// To be called for each item of long work. Sleeps for a moment now and then: a real-time thread that does not for half a second
    /// is ended by the kernel (`RLIMIT_RTTIME`, see [`host_sys::sched::favour_self`]), and a process of some thousand threads takes that long.
    fn breathe(&self, nr: usize) {
        self.beat(Nanos(process::now()));
        if nr % 64 == 63 {
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn next_timer(&self) -> Option<Nanos> {
        if self.is_unsettled {
            return Some(self.now);
        }
        let balance = self.dispatch.policy().next_balance();
        [self.deadline, self.leave_check, self.audit.next(), self.ears.listen_again(), balance]
            .into_iter()
            .flatten()
            .min()
    }

    /// Brings the host in line with the policy.
    fn steer(&mut self) {
        self.dispatch.balance(self.now);
        self.look_at_cap();
        let is_open = !self.is_throttled && self.gate.as_ref().is_none_or(|g| g.is_open);
        self.dispatch.set_open(is_open);
        self.is_unsettled = false;
        let mut actions = std::mem::take(&mut self.actions);
        self.dispatch.reconcile(self.now, &mut actions);
        // Before somebody is parked the sensor is heard: by then everybody is to be what the dispatcher takes them for.
        for action in &actions {
            if let Action::Resume(id) = *action {
                self.resume(id);
            }
        }
        for action in actions.drain(..) {
            if let Action::Park(id) = action {
                self.park(id);
            }
        }
        self.actions = actions;
        self.arm();
        let phase = Phase {
            nr_runnable: self.dispatch.policy().nr_running(),
            nr_on_host: self.dispatch.nr_on_host(),
            places: usize::from(self.dispatch.policy().vcpus()),
            is_shut: !is_open,
            cap_ppm: self.bandwidth.limit().map(|(quota, period)| quota * 1_000_000 / period.max(1)),
        };
        self.meter.turn(self.now, phase);
        self.tell_busy(phase.nr_runnable > 0);
        self.tell_outer();
    }

    /// The daemon looks at the group while somebody wants to run, and has to be called when that begins.
    fn tell_busy(&mut self, is_busy: bool) {
        const PAUSE: Nanos = Nanos::from_secs(1);
        let was_busy = std::mem::replace(&mut self.is_busy, is_busy);
        if was_busy != is_busy {
            self.table.set_busy(is_busy);
        }
        if is_busy && !was_busy && self.now.saturating_sub(self.busy_until) >= PAUSE {
            self.report(Event::Busy);
        }
        if was_busy {
            self.busy_until = self.now;
        }
    }

    fn park(&mut self, id: TaskId) {
        let now = self.now;
        if let Some(task) = self.members.task_mut(id) {
            task.parked_since = Some(now);
            task.leaving_since = now;
        }
        self.nr_parks += 1;
        self.ears.open(&self.epoll);
        if self.steer_inner(id, false) {
            return;
        }
        self.leave_check =
            Some(self.leave_check.unwrap_or(now + timing::LEAVE_CHECK).min(now + timing::LEAVE_CHECK));
        self.hold(id);
    }

    /// Has a task that is told to leave be held, unless it falls asleep by itself before: a sleeper is never parked.
    fn hold(&mut self, id: TaskId) {
        self.parts.parker.brace(id);
        if self.parts.sensor.has_records() {
            // What follows from these is decided in the next round.
            self.is_unsettled = true;
            self.hear_sensor();
        }
        if self.dispatch.host_state(id) == Some(HostState::Leaving)
            && let Err(error) = self.parts.parker.park(id)
        {
            self.lose(id, &error);
        }
    }

    fn resume(&mut self, id: TaskId) {
        let now = self.now;
        if let Some(task) = self.members.task_mut(id) {
            task.nr_switches += 1;
            task.charged_at = now;
            if let Some(since) = task.parked_since.take() {
                let length = now.saturating_sub(since);
                task.wait += length;
                self.meter.parked(now, length.0);
            }
        }
        if self.steer_inner(id, true) {
            return;
        }
        let is_interactive = self.dispatch.info(id).is_ok_and(|i| i.is_interactive);
        self.tune_slice(id, is_interactive);
        let at = Nanos(process::now());
        match self.parts.parker.resume(id) {
            Ok(true) => self.note_resumed(id, at),
            Ok(false) => {}
            Err(error) => return self.lose(id, &error),
        }
        if self.is_waiting_for_wake() {
            self.leave_check.get_or_insert(now + timing::LEAVE_CHECK);
        }
    }

    /// A task cannot be parked or resumed: it has ended, or the host does not let us. Then its process leaves the group, so that at
    /// least nothing stays parked.
    fn lose(&mut self, id: TaskId, error: &io::Error) {
        let Some((pid, tid)) = self.members.task(id).map(|t| (t.pid, t.tid)) else { return };
        let is_over = |stat: io::Result<process::Stat>| stat.map_or(true, |s| s.is_exiting());
        // A thread may end, its process go on.
        if is_over(process::thread_stat(pid, tid)) || is_over(process::stat(pid)) {
            return;
        }
        tracing::warn!(pid, %error, "a member cannot be parked and leaves the group");
        self.report(Event::Escaped { pid, reason: format!("it cannot be parked: {error}") });
        self.release(pid);
    }

    fn hear_parker(&mut self) {
        for (nr, outcome) in self.parts.parker.outcomes().into_iter().enumerate() {
            self.breathe(nr);
            match outcome {
                Outcome::Ready(id) if self.dispatch.host_state(id) == Some(HostState::Leaving) => {
                    self.hold(id)
                }
                Outcome::Ready(id) => self.arrived(id),
                Outcome::Failed(id, error) => self.lose(id, &error),
            }
        }
    }

    /// Tells every daemon that listens.
    fn report(&self, event: Event) {
        if let Ok(bytes) = serde_json::to_vec(&Message::Event(event)) {
            self.clients.iter().for_each(|client| client.tell(&bytes));
        }
    }

    /// Empties and removes what is left of the members' cgroups: a child of which nothing was heard yet may be in one.
    fn clear_cgroups(&self) {
        if self.parts.mode.park != super::mode::Park::Freeze {
            return;
        }
        let prefix = format!("{}{}.", cgroup::PREFIX, parts::tag(&self.state_dir));
        for dir in cgroup::v2_mount().iter().flat_map(|mount| cgroup::find_ours(mount, &prefix)) {
            if let Err(error) = cgroup::undo(&dir) {
                tracing::warn!(dir = %dir.display(), %error, "a cgroup is left behind");
            }
        }
    }

    fn finish(&mut self) {
        const AT_MOST: Nanos = Nanos::from_secs(10);
        self.beat(self.now + AT_MOST);
        let pids: Vec<i32> = self.members.processes().collect();
        if self.end == Some(End::Dissolved) {
            for pid in pids {
                self.begin_release(pid);
            }
            self.parts.parker.settle();
            self.clear_cgroups();
            if let Some(envelope) = &mut self.parts.envelope {
                envelope.dissolve();
            }
            self.table.set_dissolved();
            self.answer_all(&Message::Done);
        } else {
            self.publish();
            for (id, _) in self.members.tasks() {
                if self.dispatch.host_state(id) != Some(HostState::On) {
                    let _ = self.parts.parker.resume(id);
                }
            }
            self.parts.parker.settle();
            start_keeper(&self.state_dir);
        }
    }
}

/// Starts another keeper, whose worker takes our place.
fn start_keeper(state_dir: &Path) {
    let started =
        std::process::Command::new("/proc/self/exe").arg(super::client::KEEPER_ARG).arg(state_dir).spawn();
    if let Err(error) = started {
        tracing::error!(%error, "no keeper can be started; the members run free");
    }
}

/// Whether the group may run, by its cap.
fn is_throttled(state: BandwidthState) -> bool {
    matches!(state, BandwidthState::Throttled { .. })
}
