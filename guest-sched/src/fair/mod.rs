//! `guest_fair_scheduler`: shares by weight, for those who do not want the O(1) scheduler's guesses.
//!
//! Each task has a virtual time that passes more slowly the heavier it is (the nice weights of Linux since
//! 2.6.23), and the one that is furthest behind runs. There is no estimator: sleeping earns a start half a
//! slice before the vcpu's clock, once, and nothing can be banked. So the O(1) scheduler's weak spots (see
//! `docs/weak-spots.md`) are not there, and neither is its favour for tasks that sleep much. Real-time
//! classes come first, by the O(1) scheduler's rules.
//!
//! * [`weight`]: the numbers. `calendar`: the order by virtual time, in constant time. `runqueue`: a vcpu's
//!   clock and lists.
//! * `schedule`: the events. `tune`: fork and changes from outside. `balance`: several vcpus.
//!
//! # Latency
//! A slice is 6 ms at nice 0: about half of what a cpu cgroup makes a waking task wait, and still long
//! against a handover between host processes (some 10 µs). A task that slept longer than a slice preempts
//! when it wakes; one that did not waits at most one slice of each task that is behind it.

mod balance;
mod calendar;
mod check;
mod runqueue;
mod schedule;
mod task;
mod tune;
pub mod weight;

use runqueue::{MAX_CREDIT, Runqueue};
use task::Tasks;

use crate::o1::prio::{static_prio, time_slice};
use crate::policy::{Fork, Policy, PolicyError, Resched};
use crate::tables::{IdleSet, NIL};
use crate::types::{Class, Nanos, Nice, Sleep, TaskId, TaskInfo, TaskParams, TaskState, Vcpu, Waker};

/// The slice at nice 0, if none is set.
pub const DEF_SLICE: Nanos = Nanos::from_millis(6);
/// The bounds a configured slice at nice 0 is cut to.
const SLICE_BOUNDS: (Nanos, Nanos) = (Nanos::from_micros(100), Nanos::from_secs(1_000));
/// The bonus a policy without an estimator shows.
const NEUTRAL_BONUS: u8 = 5;

/// The fair scheduler.
#[derive(Clone, Debug)]
pub struct FairScheduler {
    tasks: Tasks,
    runqueues: Vec<Runqueue>,
    idle: IdleSet,
    nr_runnable: u32,
    /// The slice at nice 0.
    slice: Nanos,
    /// How far before the clock a task that wakes may start, virtual time.
    credit: u64,
    next_balance: Nanos,
    /// Which vcpu the next task that comes is given if all are equal.
    next_home: u16,
}

impl FairScheduler {
    /// The policy's name.
    pub const NAME: &'static str = "guest_fair_scheduler";

    /// Makes a scheduler without tasks.
    ///
    /// # Errors
    /// `VcpuCount`.
    pub fn new(vcpus: u16) -> Result<Self, PolicyError> {
        let mut scheduler = Self {
            tasks: Tasks::new(),
            runqueues: Vec::new(),
            idle: IdleSet::default(),
            nr_runnable: 0,
            slice: DEF_SLICE,
            credit: DEF_SLICE.0 / 2,
            next_balance: Nanos::MAX,
            next_home: 0,
        };
        scheduler.set_vcpus(vcpus, Nanos::ZERO)?;
        Ok(scheduler)
    }

    fn nr_vcpus(&self) -> u16 {
        self.runqueues.len() as u16
    }

    /// Gives the slice of a task; round-robin real-time tasks have that of the O(1) scheduler.
    fn slice_of(&self, index: u32) -> Nanos {
        let task = &self.tasks[index];
        if task.class.is_realtime() {
            time_slice(static_prio(task.nice))
        } else {
            weight::slice(self.slice, task.nice)
        }
    }

    /// Finds a task that must be runnable.
    fn find_runnable(&self, id: TaskId) -> Result<u32, PolicyError> {
        let index = self.tasks.find(id)?;
        if self.tasks[index].is_runnable() { Ok(index) } else { Err(PolicyError::WrongState(id)) }
    }
}

impl Policy for FairScheduler {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn add(&mut self, id: TaskId, params: TaskParams, _now: Nanos) -> Result<(), PolicyError> {
        self.tasks.check_free(id)?;
        self.admit(id, params);
        Ok(())
    }

    fn fork(
        &mut self,
        parent: TaskId,
        child: TaskId,
        _how: Fork,
        now: Nanos,
    ) -> Result<Resched, PolicyError> {
        let parent = self.tasks.find(parent)?;
        self.tasks.check_free(child)?;
        Ok(self.fork_task(parent, child, now))
    }

    fn exit(&mut self, id: TaskId, _parent: Option<TaskId>, now: Nanos) -> Result<Resched, PolicyError> {
        self.remove(id, now)
    }

    fn remove(&mut self, id: TaskId, _now: Nanos) -> Result<Resched, PolicyError> {
        let index = self.tasks.find(id)?;
        let resched = self.leave(index);
        self.tasks.free(index);
        Ok(resched)
    }

    fn wake(&mut self, id: TaskId, by: Waker, now: Nanos) -> Result<Resched, PolicyError> {
        let index = self.tasks.find(id)?;
        if self.tasks[index].is_runnable() {
            return Err(PolicyError::WrongState(id));
        }
        Ok(self.wake_up(index, by, now))
    }

    fn block(&mut self, id: TaskId, _how: Sleep, _now: Nanos) -> Result<Resched, PolicyError> {
        let index = self.find_runnable(id)?;
        Ok(self.leave(index))
    }

    fn yield_now(&mut self, id: TaskId, _now: Nanos) -> Result<Resched, PolicyError> {
        let index = self.find_runnable(id)?;
        Ok(self.give_way(index))
    }

    fn charge(&mut self, id: TaskId, ran: Nanos, now: Nanos) -> Result<Resched, PolicyError> {
        let index = self.tasks.find(id)?;
        Ok(self.charge_task(index, ran, now))
    }

    fn pick_next(&mut self, vcpu: Vcpu, now: Nanos) -> Result<Option<TaskId>, PolicyError> {
        if vcpu.index() >= self.runqueues.len() {
            return Err(PolicyError::NoSuchVcpu(vcpu));
        }
        Ok(self.schedule(vcpu.0, now).map(TaskId))
    }

    fn current(&self, vcpu: Vcpu) -> Option<TaskId> {
        let current = self.runqueues.get(vcpu.index())?.current;
        (current != NIL).then_some(TaskId(current))
    }

    fn budget(&self, vcpu: Vcpu) -> Option<Nanos> {
        self.current_budget(vcpu)
    }

    fn balance(&mut self, now: Nanos, resched: &mut Vec<Vcpu>) {
        self.even_out(now, resched);
    }

    fn next_balance(&self) -> Option<Nanos> {
        (self.runqueues.len() > 1 && self.has_waiting()).then_some(self.next_balance)
    }

    fn set_nice(&mut self, id: TaskId, nice: Nice, _now: Nanos) -> Result<Resched, PolicyError> {
        let index = self.tasks.find(id)?;
        self.renice(index, nice);
        Ok(Resched::NO)
    }

    fn set_class(&mut self, id: TaskId, class: Class, now: Nanos) -> Result<Resched, PolicyError> {
        let index = self.tasks.find(id)?;
        Ok(self.reclass(index, class, now))
    }

    fn set_vcpus(&mut self, count: u16, now: Nanos) -> Result<(), PolicyError> {
        if count == 0 || count > Vcpu::LIMIT {
            return Err(PolicyError::VcpuCount(count));
        }
        self.resize(count, now);
        Ok(())
    }

    fn vcpus(&self) -> u16 {
        self.nr_vcpus()
    }

    fn set_slice(&mut self, slice: Option<Nanos>) {
        self.slice = slice.unwrap_or(DEF_SLICE).clamp(SLICE_BOUNDS.0, SLICE_BOUNDS.1);
        self.credit = (self.slice.0 / 2).min(MAX_CREDIT);
    }

    fn info(&self, id: TaskId) -> Result<TaskInfo, PolicyError> {
        let index = self.tasks.find(id)?;
        let task = &self.tasks[index];
        let state = if !task.is_runnable() {
            TaskState::Sleeping
        } else if self.runqueues[usize::from(task.vcpu)].current == index {
            TaskState::Running
        } else {
            TaskState::Queued
        };
        Ok(TaskInfo {
            state,
            vcpu: Vcpu(task.vcpu),
            params: TaskParams { nice: task.nice, class: task.class },
            static_prio: static_prio(task.nice),
            prio: task.prio(),
            bonus: NEUTRAL_BONUS,
            sleep_avg: Nanos::ZERO,
            is_interactive: false,
            slice_left: Nanos(task.slice_left.max(0) as u64),
        })
    }

    fn nr_running(&self) -> usize {
        self.nr_runnable as usize
    }

    fn check_invariants(&self) -> Result<(), String> {
        self.check()
    }
}
