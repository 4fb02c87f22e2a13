//! Waking, blocking, giving way: 2.6.18's `try_to_wake_up`, `deactivate_task`, `sched_yield`.

use super::O1Scheduler;
use super::sleep_avg;
use super::task::Place;
use crate::policy::Resched;
use crate::tables::NIL;
use crate::types::{Class, Nanos, Sleep, Vcpu, Waker};

impl O1Scheduler {
    /// Makes a sleeping task runnable.
    pub(super) fn wake_up(&mut self, index: u32, by: Waker, now: Nanos) -> Resched {
        let vcpu = self.select_vcpu(index, by, now);
        sleep_avg::credit_wakeup(&mut self.tasks[index], by, now);
        self.activate(index, vcpu, now);
        let runqueue = &self.runqueues[usize::from(vcpu)];
        let is_spared = by == Waker::Sync(Vcpu(vcpu)) && runqueue.current != NIL;
        if !is_spared && runqueue.is_preempted_by(self.tasks[index].prio, &self.tasks) {
            Resched::on(Vcpu(vcpu))
        } else {
            Resched::NO
        }
    }

    /// Puts a task that became runnable last in its list of the active array; a batch task goes to the
    /// expired one.
    pub(super) fn activate(&mut self, index: u32, vcpu: u16, now: Nanos) {
        let runqueue = &self.runqueues[usize::from(vcpu)];
        let place = if self.tasks[index].class == Class::Batch {
            runqueue.expired_place()
        } else {
            runqueue.active_place()
        };
        self.account(index, vcpu, now);
        self.runqueues[usize::from(vcpu)].push_back(&mut self.tasks, index, place);
    }

    /// Counts a task that became runnable on a vcpu; the caller queues it.
    pub(super) fn account(&mut self, index: u32, vcpu: u16, now: Nanos) {
        self.average_load(vcpu, now);
        let task = &mut self.tasks[index];
        task.vcpu = vcpu;
        let runqueue = &mut self.runqueues[usize::from(vcpu)];
        if runqueue.is_idle() {
            self.idle.set(vcpu, false);
        }
        runqueue.account(task, now);
        self.nr_runnable += 1;
    }

    /// Takes a runnable task off its runqueue. Says whether it was current there.
    pub(super) fn deactivate(&mut self, index: u32, now: Nanos) -> bool {
        let vcpu = self.tasks[index].vcpu;
        self.average_load(vcpu, now);
        let runqueue = &mut self.runqueues[usize::from(vcpu)];
        runqueue.unlink(&mut self.tasks, index);
        runqueue.unaccount(&self.tasks[index]);
        if runqueue.is_idle() {
            self.idle.set(vcpu, true);
        }
        self.nr_runnable -= 1;
        self.tasks[index].place = Place::Sleeping;
        let was_current = runqueue.current == index;
        if was_current {
            runqueue.current = NIL;
        }
        was_current
    }

    /// Puts a runnable task to sleep.
    pub(super) fn put_to_sleep(&mut self, index: u32, how: Sleep, now: Nanos) -> Resched {
        self.switch_from(index, now);
        self.tasks[index].sleep_type = how.into();
        self.leave(index, now)
    }

    /// Takes a task off its runqueue; the vcpu whose current it was has to pick again.
    pub(super) fn leave(&mut self, index: u32, now: Nanos) -> Resched {
        let vcpu = Vcpu(self.tasks[index].vcpu);
        if self.tasks[index].is_runnable() && self.deactivate(index, now) {
            Resched::on(vcpu)
        } else {
            Resched::NO
        }
    }

    /// Gives way: to the expired array, or for a real-time task to the tail of its list.
    pub(super) fn give_way(&mut self, index: u32) -> Resched {
        let task = &self.tasks[index];
        let vcpu = Vcpu(task.vcpu);
        let runqueue = &mut self.runqueues[vcpu.index()];
        let target =
            if task.class.is_realtime() { runqueue.active_place() } else { runqueue.expired_place() };
        if task.place == target {
            runqueue.requeue(&mut self.tasks, index);
        } else {
            runqueue.unlink(&mut self.tasks, index);
            runqueue.push_back(&mut self.tasks, index, target);
        }
        if runqueue.current == index { Resched::on(vcpu) } else { Resched::NO }
    }
}
