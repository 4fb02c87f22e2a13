//! A machine of tasks that do nothing but run and wait, driven through a policy as a host driver would.
//!
//! Time is virtual and jumps from event to event. The driver charges a vcpu's current when its budget is
//! over, when it blocks and before it is switched from; the end of a budget can be noticed late.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::rng::Rng;
use crate::policy::{Fork, Policy, PolicyError, Resched};
use crate::types::{Nanos, Sleep, TaskId, TaskParams, Vcpu, Waker};

/// What a task does next.
pub enum Step {
    /// Uses so much CPU time.
    Run(Nanos),
    /// Sleeps for so long; a timer wakes it.
    Sleep(Nanos, Sleep),
    /// Sleeps until another task wakes it, or goes on at once if one has since the last time.
    Wait(Sleep),
    /// Wakes a task, or leaves word if that is not waiting.
    Wake(TaskId),
    /// Gives way.
    Yield,
    /// Makes a child.
    Fork(Box<dyn Behaviour>),
    /// Ends.
    Exit,
}

/// What a task does, step by step.
pub trait Behaviour: FnMut(&mut Rng) -> Step + Send {}
impl<F: FnMut(&mut Rng) -> Step + Send> Behaviour for F {}

/// What came of a task.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// CPU time it got.
    pub cpu: Nanos,
    /// The longest it was runnable without running.
    pub longest_wait: Nanos,
    /// From each wake-up to the first run after it.
    pub latencies: Vec<Nanos>,
}

impl Record {
    /// Gives the latency that 99 of 100 wake-ups did not exceed; zero if there were none.
    pub fn latency_p99(&self) -> Nanos {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get(last * 99 / 100).copied().unwrap_or_default()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Runnable,
    Asleep,
    Waiting,
    Gone,
}

struct Actor {
    behaviour: Box<dyn Behaviour>,
    state: State,
    /// What is left of the current run step.
    left: Nanos,
    /// Since when it is runnable without running.
    waits_since: Option<Nanos>,
    has_just_woken: bool,
    has_word: bool,
    parent: Option<TaskId>,
    record: Record,
}

/// A vcpu's time since the driver last charged it.
#[derive(Clone, Copy, Default)]
struct Meter {
    uncharged: Nanos,
    /// Charge when `uncharged` reaches this.
    due: Option<Nanos>,
}

/// A policy, its tasks and their clock.
pub struct World {
    policy: Box<dyn Policy>,
    now: Nanos,
    actors: Vec<Actor>,
    timers: BinaryHeap<Reverse<(Nanos, u64, TaskId)>>,
    nr_timers: u64,
    meters: Vec<Meter>,
    rng: Rng,
    /// How late the end of a budget is noticed at most.
    lateness: Nanos,
}

impl World {
    /// Makes a world without tasks. The driver notices the end of a budget up to `lateness` late.
    pub fn new(policy: Box<dyn Policy>, seed: u64, lateness: Nanos) -> Self {
        let meters = vec![Meter::default(); policy.vcpus().into()];
        Self {
            policy,
            now: Nanos::ZERO,
            actors: Vec::new(),
            timers: BinaryHeap::new(),
            nr_timers: 0,
            meters,
            rng: Rng::new(seed),
            lateness,
        }
    }

    /// Adds a task and wakes it.
    ///
    /// # Errors
    /// Those of [`Policy::add`].
    pub fn spawn(
        &mut self,
        params: TaskParams,
        behaviour: impl Behaviour + 'static,
    ) -> Result<TaskId, PolicyError> {
        let id = TaskId(self.actors.len() as u32);
        self.policy.add(id, params, self.now)?;
        let resched = self.policy.wake(id, Waker::Task, self.now)?;
        self.actors.push(Actor::new(Box::new(behaviour), None, self.now));
        self.reschedule(resched);
        self.rearm_unbounded();
        Ok(id)
    }

    /// Gives what came of a task so far.
    pub fn record(&self, id: TaskId) -> &Record {
        &self.actors[id.index()].record
    }

    /// Gives the policy.
    pub fn policy(&self) -> &dyn Policy {
        &*self.policy
    }

    /// Gives the number of tasks there ever were.
    pub fn nr_tasks(&self) -> usize {
        self.actors.len()
    }

    /// Lets time pass.
    pub fn run_for(&mut self, length: Nanos) {
        let end = self.now + length;
        while self.now < end {
            self.settle_steps();
            self.balance();
            let next = self.next_event(end);
            self.pass(next);
            self.charge_due();
            self.fire_timers();
        }
        for index in 0..self.actors.len() {
            self.note_wait(index);
        }
    }

    /// Finds the next instant at which something happens, `end` at the latest.
    fn next_event(&self, end: Nanos) -> Nanos {
        let mut next = end;
        if let Some(Reverse((at, ..))) = self.timers.peek() {
            next = next.min(*at);
        }
        if let Some(at) = self.policy.next_balance() {
            next = next.min(at.max(self.now + Nanos(1)));
        }
        for (vcpu, meter) in (0..).map(Vcpu).zip(&self.meters) {
            if let Some(id) = self.policy.current(vcpu) {
                next = next.min(self.now + self.actors[id.index()].left);
                if let Some(due) = meter.due {
                    next = next.min(self.now + due.saturating_sub(meter.uncharged));
                }
            }
        }
        next
    }

    /// Lets all currents run until `next`.
    fn pass(&mut self, next: Nanos) {
        let length = next.saturating_sub(self.now);
        for (vcpu, meter) in (0..).map(Vcpu).zip(&mut self.meters) {
            if let Some(id) = self.policy.current(vcpu) {
                let actor = &mut self.actors[id.index()];
                actor.left = actor.left.saturating_sub(length);
                actor.record.cpu += length;
                meter.uncharged += length;
            }
        }
        self.now = next;
    }

    /// Charges what a vcpu's current has used, and picks again if that ended its turn.
    fn charge(&mut self, vcpu: Vcpu) -> Resched {
        let ran = std::mem::take(&mut self.meters[vcpu.index()].uncharged);
        let Some(id) = self.policy.current(vcpu) else { return Resched::NO };
        let resched = self.policy.charge(id, ran, self.now).unwrap_or_default();
        self.rearm(vcpu);
        resched
    }

    fn charge_due(&mut self) {
        for index in 0..self.meters.len() {
            let meter = self.meters[index];
            if meter.due.is_some_and(|due| meter.uncharged >= due) {
                let resched = self.charge(Vcpu(index as u16));
                self.reschedule(resched);
            }
        }
    }

    /// Sets when the vcpu's current is charged next. To be called after every event on the vcpu.
    fn rearm(&mut self, vcpu: Vcpu) {
        let lateness = Nanos(self.rng.below(self.lateness.0 + 1));
        let budget = self.policy.budget(vcpu);
        let meter = &mut self.meters[vcpu.index()];
        meter.due = budget.map(|budget| budget.max(Nanos(1)) + lateness);
    }

    /// Charges and picks on the vcpu named, if any.
    fn reschedule(&mut self, resched: Resched) {
        let Some(vcpu) = resched.0 else { return };
        let _ = self.charge(vcpu);
        let before = self.policy.current(vcpu);
        let after = self.policy.pick_next(vcpu, self.now).unwrap_or_default();
        if before != after
            && let Some(id) = before
        {
            self.actors[id.index()].waits_since.get_or_insert(self.now);
        }
        if let Some(id) = after {
            self.note_wait(id.index());
            self.actors[id.index()].waits_since = None;
        }
        self.rearm(vcpu);
    }

    /// Writes down how long a task has waited so far.
    fn note_wait(&mut self, index: usize) {
        let now = self.now;
        let actor = &mut self.actors[index];
        let Some(since) = actor.waits_since else { return };
        let waited = now.saturating_sub(since);
        actor.record.longest_wait = actor.record.longest_wait.max(waited);
        if std::mem::take(&mut actor.has_just_woken) {
            actor.record.latencies.push(waited);
        }
    }

    /// Takes steps for all currents whose run is over, until all are running.
    fn settle_steps(&mut self) {
        for vcpu in (0..self.policy.vcpus()).map(Vcpu) {
            while let Some(id) =
                self.policy.current(vcpu).filter(|id| self.actors[id.index()].left == Nanos::ZERO)
            {
                self.step(vcpu, id);
            }
        }
    }

    fn step(&mut self, vcpu: Vcpu, id: TaskId) {
        let step = (self.actors[id.index()].behaviour)(&mut self.rng);
        match step {
            Step::Run(length) => self.actors[id.index()].left = length,
            Step::Sleep(length, how) => {
                self.nr_timers += 1;
                self.timers.push(Reverse((self.now + length, self.nr_timers, id)));
                self.block(vcpu, id, how, State::Asleep);
            }
            Step::Wait(how) => {
                if !std::mem::take(&mut self.actors[id.index()].has_word) {
                    self.block(vcpu, id, how, State::Waiting);
                }
            }
            Step::Wake(other) => {
                if self.actors[other.index()].state == State::Waiting {
                    let turn_over = self.charge(vcpu);
                    self.wake(other, Waker::Task);
                    self.reschedule(turn_over);
                } else {
                    self.actors[other.index()].has_word = true;
                }
            }
            Step::Yield => {
                let _ = self.charge(vcpu);
                let resched = self.policy.yield_now(id, self.now).unwrap_or_default();
                self.reschedule(resched);
            }
            Step::Fork(behaviour) => {
                let child = TaskId(self.actors.len() as u32);
                let turn_over = self.charge(vcpu);
                if let Ok(resched) = self.policy.fork(id, child, Fork::Process, self.now) {
                    self.actors.push(Actor::new(behaviour, Some(id), self.now));
                    self.reschedule(resched);
                    self.rearm_unbounded();
                }
                self.reschedule(turn_over);
            }
            Step::Exit => {
                let _ = self.charge(vcpu);
                self.actors[id.index()].state = State::Gone;
                let parent = self.actors[id.index()].parent;
                let resched = self.policy.exit(id, parent, self.now).unwrap_or_default();
                self.reschedule(resched);
            }
        }
    }

    fn block(&mut self, vcpu: Vcpu, id: TaskId, how: Sleep, state: State) {
        let _ = self.charge(vcpu);
        self.actors[id.index()].state = state;
        let resched = self.policy.block(id, how, self.now).unwrap_or_default();
        self.reschedule(resched);
    }

    fn fire_timers(&mut self) {
        while let Some(&Reverse((at, _, id))) = self.timers.peek() {
            if at > self.now {
                return;
            }
            self.timers.pop();
            self.wake(id, Waker::Interrupt);
        }
    }

    fn wake(&mut self, id: TaskId, by: Waker) {
        let actor = &mut self.actors[id.index()];
        actor.state = State::Runnable;
        actor.waits_since = Some(self.now);
        actor.has_just_woken = true;
        let resched = self.policy.wake(id, by, self.now).unwrap_or_default();
        self.reschedule(resched);
        self.rearm_unbounded();
    }

    /// Asks again for the budgets of vcpus whose current had none: a second runnable task gives it one.
    fn rearm_unbounded(&mut self) {
        for vcpu in (0..self.policy.vcpus()).map(Vcpu) {
            if self.meters[vcpu.index()].due.is_none() {
                self.rearm(vcpu);
            }
        }
    }

    fn balance(&mut self) {
        if self.policy.next_balance().is_some_and(|due| due <= self.now) {
            let mut resched = Vec::new();
            self.policy.balance(self.now, &mut resched);
            for vcpu in resched {
                self.reschedule(Resched::on(vcpu));
            }
        }
    }
}

impl Actor {
    fn new(behaviour: Box<dyn Behaviour>, parent: Option<TaskId>, now: Nanos) -> Self {
        Self {
            behaviour,
            state: State::Runnable,
            left: Nanos::ZERO,
            waits_since: Some(now),
            has_just_woken: false,
            has_word: false,
            parent,
            record: Record::default(),
        }
    }
}
