//! Tasks that come, and changes from outside: fork, nice, class, number of vcpus.

use super::FairScheduler;
use super::runqueue::Runqueue;
use super::task::{Place, Task};
use super::weight::virtual_time;
use crate::policy::Resched;
use crate::types::{Class, Nanos, Nice, TaskId, TaskParams, Vcpu};

impl FairScheduler {
    /// Takes in a sleeping task; it starts at its vcpu's clock.
    pub(super) fn admit(&mut self, id: TaskId, params: TaskParams) {
        let vcpu = self.idlest_vcpu();
        let clock = self.runqueues[usize::from(vcpu)].clock;
        self.tasks.insert(id, Task::new(params, vcpu, clock));
    }

    /// Makes a child and queues it one turn behind its parent and the clock: forking is no way to get CPU
    /// time. It goes to an idle vcpu if there is one.
    pub(super) fn fork_task(&mut self, parent: u32, child: TaskId, now: Nanos) -> Resched {
        let Task { vcpu: home, vtime, nice, class, .. } = self.tasks[parent];
        let is_home_idle = self.runqueues[usize::from(home)].is_idle();
        let vcpu = self.idle.first().filter(|_| !is_home_idle).unwrap_or(home);
        self.tasks.insert(child, Task::new(TaskParams { nice, class }, home, vtime));
        self.end_solitude(vcpu, now);
        self.rebase(child.0, vcpu);
        let debit = virtual_time(self.slice_of(child.0), nice);
        let clock = self.runqueues[usize::from(vcpu)].clock;
        let task = &mut self.tasks[child.0];
        task.vtime = task.vtime.max(clock).saturating_add(debit);
        self.activate(child.0, vcpu, now);
        if self.is_preempted_by(vcpu, child.0, now) { Resched::on(Vcpu(vcpu)) } else { Resched::NO }
    }

    /// Changes the nice value. What was used so far stays as it was charged.
    pub(super) fn renice(&mut self, index: u32, nice: Nice) {
        let task = &mut self.tasks[index];
        let before = task.load_weight();
        task.nice = nice;
        let after = task.load_weight();
        if task.is_runnable() {
            let runqueue = &mut self.runqueues[usize::from(task.vcpu)];
            runqueue.load = runqueue.load - before + after;
        }
    }

    /// Changes the class. A task that comes back from real time starts at the clock.
    pub(super) fn reclass(&mut self, index: u32, class: Class, now: Nanos) -> Resched {
        let task = &mut self.tasks[index];
        if task.class == class {
            return Resched::NO;
        }
        let vcpu = task.vcpu;
        let is_runnable = task.is_runnable();
        let was_current = is_runnable && self.deactivate(index);
        let task = &mut self.tasks[index];
        task.class = class;
        if !is_runnable {
            return Resched::NO;
        }
        let clock = self.runqueues[usize::from(vcpu)].clock;
        task.vtime = task.vtime.max(clock);
        self.activate(index, vcpu, now);
        let runqueue = &mut self.runqueues[usize::from(vcpu)];
        if !was_current {
            return if self.is_preempted_by(vcpu, index, now) {
                Resched::on(Vcpu(vcpu))
            } else {
                Resched::NO
            };
        }
        runqueue.current = index;
        runqueue.charged_at = now;
        if !class.is_realtime() {
            runqueue.unlink(&mut self.tasks, index);
            self.tasks[index].place = Place::Running;
        }
        Resched::on(Vcpu(vcpu))
    }

    /// Sets the number of vcpus, at least one. The tasks of those that go are dealt to the others, each to
    /// the one with the least load.
    pub(super) fn resize(&mut self, count: u16, now: Nanos) {
        for vcpu in self.nr_vcpus()..count {
            self.idle.set(vcpu, true);
            self.runqueues.push(Runqueue::new());
        }
        let nr_before = self.nr_vcpus();
        for vcpu in count..nr_before {
            self.evacuate(vcpu, count, now);
            self.idle.set(vcpu, false);
        }
        for index in 0..self.tasks.slots().len() as u32 {
            let vcpu = self.tasks[index].vcpu;
            if vcpu >= count {
                self.rebase(index, vcpu % count);
                self.tasks[index].vcpu = vcpu % count;
            }
        }
        self.runqueues.truncate(count.into());
        self.next_balance = now.saturating_add(super::balance::INTERVAL);
    }

    /// Moves all tasks of a vcpu to the first `count`.
    fn evacuate(&mut self, vcpu: u16, count: u16, now: Nanos) {
        loop {
            let runqueue = &mut self.runqueues[usize::from(vcpu)];
            let current = self.tasks.get(runqueue.current).map(|_| runqueue.current);
            let Some(index) = current.or_else(|| runqueue.take_next(&mut self.tasks)) else { return };
            self.move_task(index, self.least_loaded(count), now);
        }
    }
}
