//! `guest_o1_scheduler`: the Linux 2.6 O(1) scheduler (2.6.18) as a pure state machine.
//!
//! Each vcpu has a runqueue with two arrays of 140 first-in first-out lists and a bitmap over them. The
//! current task is the head of the best list of the *active* array. A task whose slice ends goes to the
//! *expired* array, or back to the active one if it is interactive: its sleep average, which sleep raises
//! and running lowers, makes that distinction and shifts its priority by up to five levels either way. When
//! the active array is empty the two change roles.
//!
//! * [`prio`]: the numbers; `slices`: the slice lengths in force.
//! * `task`, `runqueue`: the tables. `sleep_avg`: the estimator.
//! * `wake`, `schedule`, `charge`, `lifecycle`, `tune`, `balance`: the events. `charge` says how measured
//!   time takes the place of the kernel's tick, and `balance` what is different with vcpus.
//!
//! Not modelled: priority inheritance, kernel threads, CPU affinity.

mod balance;
mod charge;
mod check;
mod lifecycle;
pub mod prio;
mod runqueue;
mod schedule;
mod sleep_avg;
mod slices;
mod task;
mod tune;
mod wake;

use runqueue::Runqueue;
use slices::Slices;
use task::Tasks;

use crate::policy::{Fork, Policy, PolicyError, Resched};
use crate::tables::{IdleSet, NIL};
use crate::types::{Class, Nanos, Nice, Sleep, TaskId, TaskInfo, TaskParams, TaskState, Vcpu, Waker};

/// The O(1) scheduler.
#[derive(Clone, Debug)]
pub struct O1Scheduler {
    tasks: Tasks,
    runqueues: Vec<Runqueue>,
    idle: IdleSet,
    nr_runnable: u32,
    slices: Slices,
    balance_due: Nanos,
    /// Which vcpu the next task that comes is given if all are equal.
    next_home: u16,
}

impl O1Scheduler {
    /// The policy's name.
    pub const NAME: &'static str = "guest_o1_scheduler";

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
            slices: Slices::new(None),
            balance_due: Nanos::MAX,
            next_home: 0,
        };
        scheduler.set_vcpus(vcpus, Nanos::ZERO)?;
        Ok(scheduler)
    }

    fn nr_vcpus(&self) -> u16 {
        self.runqueues.len() as u16
    }

    /// Finds a task that must be runnable.
    fn find_runnable(&self, id: TaskId) -> Result<u32, PolicyError> {
        let index = self.tasks.find(id)?;
        if self.tasks[index].is_runnable() { Ok(index) } else { Err(PolicyError::WrongState(id)) }
    }
}

impl Policy for O1Scheduler {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn add(&mut self, id: TaskId, params: TaskParams, now: Nanos) -> Result<(), PolicyError> {
        self.tasks.check_free(id)?;
        self.admit(id, params, now);
        Ok(())
    }

    fn fork(&mut self, parent: TaskId, child: TaskId, how: Fork, now: Nanos) -> Result<Resched, PolicyError> {
        let parent = self.tasks.find(parent)?;
        self.tasks.check_free(child)?;
        Ok(self.fork_task(parent, child, how, now))
    }

    fn exit(&mut self, id: TaskId, parent: Option<TaskId>, now: Nanos) -> Result<Resched, PolicyError> {
        let index = self.tasks.find(id)?;
        if let Some(parent) = parent.filter(|&parent| parent != id)
            && let Ok(parent) = self.tasks.find(parent)
        {
            self.bequeath(index, parent, now);
        }
        let resched = self.leave(index, now);
        self.tasks.free(index);
        Ok(resched)
    }

    fn remove(&mut self, id: TaskId, now: Nanos) -> Result<Resched, PolicyError> {
        self.exit(id, None, now)
    }

    fn wake(&mut self, id: TaskId, by: Waker, now: Nanos) -> Result<Resched, PolicyError> {
        let index = self.tasks.find(id)?;
        if self.tasks[index].is_runnable() {
            return Err(PolicyError::WrongState(id));
        }
        Ok(self.wake_up(index, by, now))
    }

    fn block(&mut self, id: TaskId, how: Sleep, now: Nanos) -> Result<Resched, PolicyError> {
        let index = self.find_runnable(id)?;
        Ok(self.put_to_sleep(index, how, now))
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
        self.balance_due_vcpus(now, resched);
    }

    fn next_balance(&self) -> Option<Nanos> {
        let nr_busy = u32::from(self.nr_vcpus() - self.idle.len());
        (self.runqueues.len() > 1 && self.nr_runnable > nr_busy).then_some(self.balance_due)
    }

    fn set_nice(&mut self, id: TaskId, nice: Nice, now: Nanos) -> Result<Resched, PolicyError> {
        let index = self.tasks.find(id)?;
        Ok(self.renice(index, nice, now))
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
        self.slices = Slices::new(slice);
    }

    fn info(&self, id: TaskId) -> Result<TaskInfo, PolicyError> {
        let index = self.tasks.find(id)?;
        let task = &self.tasks[index];
        let runqueue = &self.runqueues[usize::from(task.vcpu)];
        let state = if !task.is_runnable() {
            TaskState::Sleeping
        } else if runqueue.current == index {
            TaskState::Running
        } else if task.place == runqueue.active_place() {
            TaskState::Queued
        } else {
            TaskState::Expired
        };
        Ok(TaskInfo {
            state,
            vcpu: Vcpu(task.vcpu),
            params: TaskParams { nice: prio::nice_of(task.static_prio), class: task.class },
            static_prio: task.static_prio,
            prio: task.prio,
            bonus: task.bonus(),
            sleep_avg: task.sleep_avg(),
            is_interactive: task.is_interactive(),
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
