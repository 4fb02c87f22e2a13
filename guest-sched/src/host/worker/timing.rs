//! Charging, slices, the cap, and on which CPU the worker itself runs.

use host_sys::process;
use host_sys::sched::Favour;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::Worker;
use crate::bandwidth::BandwidthState;
use crate::types::{Nanos, Sleep, TaskId};

/// How long after a task was told to leave it is looked at, in case that the sensor has missed it.
pub(super) const LEAVE_CHECK: Nanos = Nanos::from_millis(8);

/// A timer is never set for less: what is over by then is charged all the same.
const SHORTEST: Nanos = Nanos::from_micros(60);

/// From one charge to the next at least, where the slice is the policy's; else a part of the slice. A slice's end is met once, a little
/// late, rather than in ever smaller steps.
const SHORTEST_PART: Nanos = Nanos::from_micros(250);

/// Over how long the CPU time per time of a member that runs is averaged.
const RATE_OVER: Nanos = Nanos::from_millis(20);

impl Worker {
    /// Charges a task for what it used since it was charged last.
    pub(super) fn charge(&mut self, id: TaskId) {
        let Some(task) = self.members.task_mut(id) else { return };
        let ran = task.clock.step();
        let length = self.now.saturating_sub(task.charged_at);
        task.charged_at = self.now;
        task.usage += ran;
        // The host runs a member and others in turns of some milliseconds: what counts is the mean of several of them.
        let is_on = self.dispatch.host_state(id) == Some(super::HostState::On);
        let weight = if is_on { length.0 as f64 / (length.0 + RATE_OVER.0) as f64 } else { 0.0 };
        self.rate += weight * ((ran.0 as f64 / length.0.max(1) as f64).min(1.0) - self.rate);
        if ran == Nanos::ZERO {
            return;
        }
        self.usage += ran;
        self.meter.got(self.now, ran.0);
        self.bandwidth.charge(ran, self.now);
        if let Err(error) = self.dispatch.charge(id, ran, self.now) {
            tracing::debug!(%error, "charge");
        }
    }

    /// Charges everybody on the host's runqueue.
    pub(super) fn charge_running(&mut self) {
        for i in 0..self.dispatch.on().len() {
            let id = self.dispatch.on()[i];
            if !self.query_inner(id) {
                self.charge(id);
            }
        }
        for i in 0..self.dispatch.leaving().len() {
            self.charge(self.dispatch.leaving()[i]);
        }
    }

    /// Does what is due.
    pub(super) fn run_timers(&mut self) {
        if self.deadline.is_some_and(|at| at <= self.now) {
            self.charge_running();
        }
        if self.leave_check.is_some_and(|at| at <= self.now) {
            self.check_leaving();
        }
        if self.audit.next().is_some_and(|at| at <= self.now) {
            self.run_audit();
        }
    }

    /// Looks at those who were told to leave and of whom nothing was heard.
    fn check_leaving(&mut self) {
        let leaving = self.dispatch.leaving().to_vec();
        for id in leaving {
            // A nested group's worker says itself when it is out.
            if self.is_inner(id) {
                continue;
            }
            if self.parts.parker.is_out(id) {
                self.went_out(id, Sleep::Interruptible);
            } else if self.parts.parker.is_lost(id) {
                self.lose(id, &std::io::Error::other("somebody else has moved it to another cgroup"));
            }
        }
        self.check_resumed();
        let is_open = !self.dispatch.leaving().is_empty() || self.is_waiting_for_wake();
        self.leave_check = is_open.then_some(self.now + LEAVE_CHECK);
    }

    /// There is nobody to look at any more.
    pub(super) fn close_check(&mut self) {
        if self.leave_check.is_some() && self.dispatch.leaving().is_empty() && !self.is_waiting_for_wake() {
            self.leave_check = None;
        }
    }

    /// Looks at those who were resumed and of whom nothing was heard since. One that fell asleep by itself while it was told to leave,
    /// and where nothing wakes it (`vfork` waits for the child so), sleeps on: then it is somebody else's turn.
    fn check_resumed(&mut self) {
        let silent =
            |id: &TaskId| !self.is_inner(*id) && self.members.task(*id).is_some_and(|t| t.nr_runnable == 0);
        for id in self.dispatch.on().iter().copied().filter(silent).collect::<Vec<_>>() {
            let Some(pid) = self.members.task(id).map(|t| t.pid) else { continue };
            let tids: Vec<i32> = self
                .members
                .threads_of(pid)
                .iter()
                .copied()
                .filter(|&t| self.members.thread(t).is_some_and(|t| t.task == id))
                .collect();
            let is_runnable = |tid: &&i32| process::thread_stat(pid, **tid).is_ok_and(|s| s.is_runnable());
            let runnable = tids.iter().find(is_runnable).copied();
            if self.parts.sensor.has_records() {
                // Younger news than the look: then the look proves nothing.
                continue;
            }
            match runnable {
                Some(tid) => self.set_thread_runnable(tid, true, Sleep::default()),
                None => self.went_out(id, Sleep::Interruptible),
            }
        }
    }

    /// Whether one that was resumed has not been heard of since.
    pub(super) fn is_waiting_for_wake(&self) -> bool {
        let is_silent = |id: &TaskId| self.members.task(*id).is_some_and(|t| t.nr_runnable == 0);
        self.dispatch.on().iter().any(is_silent)
    }

    /// A task left the host's runqueue.
    pub(super) fn went_out(&mut self, id: TaskId, how: Sleep) {
        self.charge(id);
        let parker = &self.parts.parker;
        if let Err(error) = self.dispatch.out(id, how, self.now, || parker.is_free(id)) {
            tracing::debug!(%error, "out");
        }
        if self.dispatch.host_state(id) == Some(super::HostState::Asleep)
            && let Some(task) = self.members.task_mut(id)
        {
            task.parked_since = None;
        }
        self.close_check();
    }

    /// Looks at the cap, and sets the timer for whatever ends first: a slice, the cap's budget, the cap's stop.
    pub(super) fn arm(&mut self) {
        let mut deadline = Nanos::MAX;
        let shortest = self.config.slice_us.map_or(SHORTEST_PART, |us| Nanos(us * 1_000 / 16).max(SHORTEST));
        for (vcpu, id) in self.dispatch.currents() {
            let Some(budget) = self.dispatch.policy().budget(vcpu) else { continue };
            // A nested group that is asked what it has used is charged when it answers.
            if self.dispatch.host_state(id) == Some(super::HostState::On)
                && !self.is_asked(id)
                && let Some(task) = self.members.task(id)
            {
                // Counted from the last charge, not from now: then whatever else wakes the worker meanwhile puts nothing off.
                let length = Nanos((budget.0 as f64 / self.rate.max(0.25)) as u64).max(shortest);
                deadline = deadline.min(task.charged_at.saturating_add(length));
            }
        }
        if self.bandwidth.limit().is_some() {
            match self.bandwidth.state(self.now) {
                BandwidthState::Throttled { until } => deadline = deadline.min(until),
                BandwidthState::Running { budget } => {
                    // What is used at the same time by all who run, from the last charge on.
                    let (mut rate, mut since) = (0.0, Nanos::ZERO);
                    for task in self.dispatch.on().iter().filter_map(|&id| self.members.task(id)) {
                        // Others on the host may stop taking their part at any moment, and what is used too much now is a long stop
                        // later: looking too early is cheaper.
                        rate += self.rate.max(0.7) * f64::from(task.nr_runnable.max(1));
                        since = since.max(task.charged_at);
                    }
                    if rate > 0.0 && budget != Nanos::MAX {
                        // The cap is looked at in every round, so that this may be put off.
                        let end = since.saturating_add(Nanos((budget.0 as f64 / rate) as u64));
                        deadline = deadline.min(end.max(self.now + SHORTEST));
                    }
                }
            }
        }
        self.deadline = (deadline != Nanos::MAX).then_some(deadline);
        self.audit.arm(self.now, self.dispatch.policy().nr_running() > 0);
    }

    /// Whether the cap stops the group now; settles the meter when that changes.
    pub(super) fn look_at_cap(&mut self) {
        if self.bandwidth.limit().is_none() {
            self.is_throttled = false;
            return;
        }
        // The quota flows in with time: what was used meanwhile has to be known before it is asked.
        self.charge_running();
        let was = self.is_throttled;
        self.is_throttled = super::is_throttled(self.bandwidth.state(self.now));
        if was && !self.is_throttled {
            self.meter.settle_cap(self.now);
        }
    }
}

/// Keeps the worker on the CPU on which its members run: there its wake-ups are cheap, what the members used is exact, and none of them
/// falls asleep while it is told to leave.
#[derive(Debug)]
pub(super) struct Follow {
    is_wanted: bool,
    cpu: Option<i32>,
    nr_elsewhere: u32,
}

impl Follow {
    /// A worker that cannot be favoured stays where the host puts it.
    pub(super) fn new(favour: Favour) -> Self {
        Self { is_wanted: favour != Favour::None, cpu: None, nr_elsewhere: 0 }
    }

    /// A record came from this CPU.
    pub(super) fn saw(&mut self, cpu: i32) {
        const PATIENCE: u32 = 8;
        if !self.is_wanted || self.cpu == Some(cpu) {
            self.nr_elsewhere = 0;
            return;
        }
        self.nr_elsewhere += 1;
        if self.nr_elsewhere < PATIENCE && self.cpu.is_some() {
            return;
        }
        self.nr_elsewhere = 0;
        let mut set = CpuSet::new();
        if set.set(cpu as usize).is_ok() && sched_setaffinity(Pid::from_raw(0), &set).is_ok() {
            self.cpu = Some(cpu);
        }
    }
}
