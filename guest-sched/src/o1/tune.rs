//! Changes from outside: nice, class, number of vcpus.

use super::O1Scheduler;
use super::prio;
use super::runqueue::Runqueue;
use crate::policy::Resched;
use crate::tables::NIL;
use crate::types::{Class, Nanos, Nice, Vcpu};

impl O1Scheduler {
    /// Changes the nice value (`set_user_nice`): requeued by its new priority; the current slice stays as
    /// it is.
    pub(super) fn renice(&mut self, index: u32, nice: Nice, now: Nanos) -> Resched {
        let static_prio = prio::static_prio(nice);
        let task = &mut self.tasks[index];
        if task.class.is_realtime() {
            task.static_prio = static_prio;
            return Resched::NO;
        }
        let (vcpu, old_prio) = (task.vcpu, task.prio);
        if !task.is_runnable() {
            task.static_prio = static_prio;
            task.prio = task.wanted_prio();
            return Resched::NO;
        }
        let place = task.place;
        self.average_load(vcpu, now);
        let runqueue = &mut self.runqueues[usize::from(vcpu)];
        runqueue.unlink(&mut self.tasks, index);
        let task = &mut self.tasks[index];
        runqueue.load -= task.load_weight();
        task.static_prio = static_prio;
        task.prio = task.wanted_prio();
        runqueue.load += task.load_weight();
        let new_prio = task.prio;
        runqueue.push_back(&mut self.tasks, index, place);
        let worsened_while_running = new_prio > old_prio && runqueue.current == index;
        if new_prio < old_prio || worsened_while_running { Resched::on(Vcpu(vcpu)) } else { Resched::NO }
    }

    /// Changes the class (`sched_setscheduler`): the task goes last in its new list of the active array, a
    /// batch task of the expired one. A batch task loses its sleep average: it is a CPU hog by its own
    /// word.
    pub(super) fn reclass(&mut self, index: u32, class: Class, now: Nanos) -> Resched {
        let task = &mut self.tasks[index];
        if task.class == class {
            return Resched::NO;
        }
        let (vcpu, old_prio, is_runnable) = (task.vcpu, task.prio, task.is_runnable());
        let was_current = is_runnable && self.deactivate(index, now);
        let task = &mut self.tasks[index];
        task.class = class;
        if class == Class::Batch {
            task.set_sleep_avg(Nanos::ZERO);
        }
        task.prio = task.wanted_prio();
        let new_prio = task.prio;
        if !is_runnable {
            return Resched::NO;
        }
        self.activate(index, vcpu, now);
        let runqueue = &mut self.runqueues[usize::from(vcpu)];
        let is_needed = if was_current {
            runqueue.current = index;
            new_prio > old_prio
        } else {
            runqueue.is_preempted_by(new_prio, &self.tasks)
        };
        if is_needed { Resched::on(Vcpu(vcpu)) } else { Resched::NO }
    }

    /// Sets the number of vcpus, at least one. New ones are idle; the tasks of those that go are dealt to
    /// the others, each to the one with the least load, and stay active or expired.
    pub(super) fn resize(&mut self, count: u16, now: Nanos) {
        for vcpu in self.nr_vcpus()..count {
            self.idle.set(vcpu, true);
            self.runqueues.push(Runqueue::new(self.new_balancing(vcpu, count, now)));
        }
        while self.nr_vcpus() > count {
            let vcpu = self.nr_vcpus() - 1;
            self.evacuate(vcpu, now);
            self.idle.set(vcpu, false);
            self.runqueues.pop();
        }
        for task in self.tasks.slots_mut() {
            if task.vcpu >= count {
                task.vcpu %= count;
            }
        }
        self.plan_balance();
    }

    /// Moves all tasks of the last vcpu to the others.
    fn evacuate(&mut self, vcpu: u16, now: Nanos) {
        let at = usize::from(vcpu);
        let current = self.runqueues[at].current;
        if current != NIL {
            self.switch_from(current, now);
        }
        for is_active in [true, false] {
            while let Some(index) = self.first_of(at, is_active) {
                let target = self.least_loaded(vcpu);
                self.move_task(index, target, is_active, now);
            }
        }
    }

    /// Gives the vcpu with the least load among the first `count`.
    fn least_loaded(&self, count: u16) -> u16 {
        (0..count).min_by_key(|&vcpu| self.runqueues[usize::from(vcpu)].load).unwrap_or(0)
    }

    fn first_of(&self, at: usize, is_active: bool) -> Option<u32> {
        let runqueue = &self.runqueues[at];
        if is_active { runqueue.active().first() } else { runqueue.expired().first() }
    }
}
