//! How tasks come and go: 2.6.18's `sched_fork`, `wake_up_new_task`, `sched_exit`.

use super::O1Scheduler;
use super::prio::{CHILD_PENALTY, EXIT_WEIGHT, MAX_BONUS, MAX_SLEEP_AVG};
use super::task::{Place, SleepType, Task};
use crate::policy::{Fork, Resched};
use crate::types::{Class, Nanos, TaskId, TaskParams, Vcpu};

impl O1Scheduler {
    /// Takes in a sleeping task without a history, at home on the vcpu with the least load.
    pub(super) fn admit(&mut self, id: TaskId, params: TaskParams, now: Nanos) {
        let vcpu = self.idlest_vcpu();
        let slice = self.slices.of(super::prio::static_prio(params.nice));
        self.tasks.insert(id, Task::new(params, vcpu, slice, now));
    }

    /// Makes a child and queues it.
    ///
    /// The slice is shared so that a task cannot get CPU time by forking; the child's bonus is a little
    /// less than the parent's, and what the parent has above its last full bonus step is lost.
    ///
    /// The child goes to an idle vcpu if there is one. In 2.6.18 that is done at exec (`SD_BALANCE_EXEC`),
    /// which is no event here.
    pub(super) fn fork_task(&mut self, parent: u32, child: TaskId, how: Fork, now: Nanos) -> Resched {
        let home = self.tasks[parent].vcpu;
        let vcpu = if self.runqueues[usize::from(home)].is_idle() {
            home
        } else {
            self.idle.first().unwrap_or(home)
        };
        let (slice, parent_expires) = self.split_slice(parent);
        let mut task = self.tasks[parent].clone();
        task.place = Place::Sleeping;
        task.vcpu = vcpu;
        task.timestamp = now;
        task.last_ran = Nanos::ZERO;
        task.unsettled = Nanos::ZERO;
        task.slice_left = slice;
        task.is_first_slice = true;
        task.sleep_type = SleepType::Normal;
        task.set_sleep_avg(bonus_worth(u64::from(task.bonus()) * CHILD_PENALTY / 100));
        task.prio = task.wanted_prio();
        self.tasks.insert(child, task);
        if parent_expires {
            self.expire(parent, now);
        }
        let resched = self.queue_child(parent, child.0, how, now);
        let task = &mut self.tasks[parent];
        task.set_sleep_avg(bonus_worth(u64::from(task.bonus())));
        if resched.is_needed() || !parent_expires || self.runqueues[usize::from(home)].current != parent {
            resched
        } else {
            Resched::on(Vcpu(home))
        }
    }

    /// Halves the parent's slice. A slice of a tick or less goes to the child whole; the parent, if it is
    /// queued by slices at all, expires then.
    fn split_slice(&mut self, parent: u32) -> (i64, bool) {
        let task = &mut self.tasks[parent];
        let left = task.slice_left;
        if left > self.slices.tick.0 as i64 {
            task.slice_left = left / 2;
            return (left - left / 2, false);
        }
        let is_active = task.place == self.runqueues[usize::from(task.vcpu)].active_place();
        let expires = is_active && !matches!(task.class, Class::Fifo(_));
        task.slice_left = if expires { left.min(0) } else { left.min(1) };
        (left.max(1), expires)
    }

    /// Queues a new child: before its parent if it has an address space of its own, so that it can exec
    /// before the parent writes.
    fn queue_child(&mut self, parent: u32, child: u32, how: Fork, now: Nanos) -> Resched {
        let vcpu = self.tasks[child].vcpu;
        let is_local = vcpu == self.tasks[parent].vcpu;
        if is_local && how == Fork::Process && self.tasks[parent].is_runnable() {
            self.account(child, vcpu, now);
            let runqueue = &mut self.runqueues[usize::from(vcpu)];
            runqueue.insert_before(&mut self.tasks, child, parent);
            if runqueue.current == parent {
                return Resched::on(Vcpu(vcpu));
            }
        } else {
            self.activate(child, vcpu, now);
        }
        let runqueue = &self.runqueues[usize::from(vcpu)];
        if runqueue.is_preempted_by(self.tasks[child].prio, &self.tasks) {
            Resched::on(Vcpu(vcpu))
        } else {
            Resched::NO
        }
    }

    /// Gives a parent what a child that ends leaves it: the rest of the slice that came from it, and a
    /// quarter of a say in its sleep average if the child slept less.
    pub(super) fn bequeath(&mut self, child: u32, parent: u32, now: Nanos) {
        self.switch_from(child, now);
        let child = &self.tasks[child];
        let (leftover, sleep_avg) = (child.slice_left.max(0), child.sleep_avg());
        let cap = self.slices.of(child.static_prio).0 as i64;
        let is_returned = child.is_first_slice && child.vcpu == self.tasks[parent].vcpu;
        let parent = &mut self.tasks[parent];
        if is_returned {
            parent.slice_left = parent.slice_left.saturating_add(leftover).min(cap);
        }
        if sleep_avg < parent.sleep_avg() {
            let own = parent.sleep_avg().0 / (EXIT_WEIGHT + 1) * EXIT_WEIGHT;
            parent.set_sleep_avg(Nanos(own + sleep_avg.0 / (EXIT_WEIGHT + 1)));
        }
    }
}

/// Gives the sleep average that just makes a bonus.
fn bonus_worth(bonus: u64) -> Nanos {
    Nanos(bonus * (MAX_SLEEP_AVG.0 / u64::from(MAX_BONUS)))
}
