//! Charging CPU time: slice ends, expiry, granularity. Takes the place of 2.6.18's `scheduler_tick`.
//!
//! # Where this differs from 2.6.18, and why
//!
//! * The kernel takes one tick off whoever runs when the timer fires, so a task that sleeps just before
//!   each tick runs for nothing. Here a task is charged the nanoseconds it ran; there is nothing to dodge.
//! * A report may come late. What a task ran past its slice's end is not lost, it comes off its next slice;
//!   a task that owes whole slices passes as many turns (see `schedule`). So the ratio between tasks is
//!   exact in the long run, however coarse the reports are.
//! * A task that was alone on its runqueue owes nobody. Time from before the runqueue had a second runnable
//!   task only moves the position within the slice, as the kernel's back-to-back slices would.

use super::O1Scheduler;
use super::prio::granularity;
use super::sleep_avg;
use super::task::{Place, Task};
use crate::policy::Resched;
use crate::types::{Class, Nanos, Vcpu};

/// A task that runs though it owes time (everybody here does) gets this part of a slice.
const DEBTOR_TURN: i64 = 16;

impl O1Scheduler {
    /// Charges `ran` of CPU time.
    pub(super) fn charge_task(&mut self, index: u32, ran: Nanos, now: Nanos) -> Resched {
        if ran == Nanos::ZERO {
            return Resched::NO;
        }
        let nr_vcpus = self.nr_vcpus();
        let task = &mut self.tasks[index];
        let runqueue = &mut self.runqueues[usize::from(task.vcpu)];
        let slice = self.slices.of(task.static_prio);
        let is_current = runqueue.current == index;
        task.unsettled = task.unsettled.saturating_add(ran);
        task.last_ran = now;
        if !is_current {
            sleep_avg::settle(task, slice);
        }
        if matches!(task.class, Class::Fifo(_)) {
            return Resched::NO;
        }
        let before = task.slice_left;
        let after = before.saturating_sub(ran.0.min(i64::MAX as u64) as i64);
        let is_active = task.place == runqueue.active_place();
        if after > 0 {
            // A current that has left the active array (expired, given way) is only waiting to be switched
            // from.
            let turn_ends =
                !is_active || granule_end(task, slice, nr_vcpus).is_some_and(|left_then| after <= left_then);
            task.slice_left = after;
            if !(is_current && turn_ends) {
                return Resched::NO;
            }
            let vcpu = Vcpu(task.vcpu);
            if is_active {
                runqueue.requeue(&mut self.tasks, index);
            }
            return Resched::on(vcpu);
        }
        let overrun = after.unsigned_abs();
        let owed = if runqueue.nr_running <= 1 {
            overrun % slice.0
        } else {
            let fresh = overrun.min(ran.0);
            let contended = fresh.min(now.saturating_sub(runqueue.contended_since).0);
            overrun - fresh + contended + (fresh - contended) % slice.0
        };
        task.slice_left = -(owed.min(i64::MAX as u64) as i64);
        let vcpu = Vcpu(task.vcpu);
        if is_active {
            self.expire(index, now);
        } else if task.place == Place::Sleeping {
            task.slice_left += slice.0 as i64;
            task.is_first_slice = false;
        }
        if is_current { Resched::on(vcpu) } else { Resched::NO }
    }

    /// Ends the slice of a task in the active array: a new slice, a new priority, and on to the expired
    /// array unless it is interactive and the expired are not starving. A round-robin real-time task goes
    /// to the tail of its list.
    pub(super) fn expire(&mut self, index: u32, now: Nanos) {
        let task = &mut self.tasks[index];
        let runqueue = &mut self.runqueues[usize::from(task.vcpu)];
        let slice = self.slices.of(task.static_prio);
        task.slice_left = task.slice_left.saturating_add(slice.0 as i64);
        task.is_first_slice = false;
        if task.class.is_realtime() {
            runqueue.requeue(&mut self.tasks, index);
            return;
        }
        runqueue.unlink(&mut self.tasks, index);
        let task = &mut self.tasks[index];
        sleep_avg::settle_all_but_last(task, slice);
        task.prio = task.wanted_prio();
        runqueue.expired_since.get_or_insert(now);
        let static_prio = task.static_prio;
        if task.is_interactive() && !runqueue.is_expired_starving(static_prio, now) {
            runqueue.push_back(&mut self.tasks, index, runqueue.active_place());
        } else {
            runqueue.push_back(&mut self.tasks, index, runqueue.expired_place());
            runqueue.best_expired_prio = runqueue.best_expired_prio.min(static_prio);
        }
    }

    /// Gives how much CPU time the vcpu's current may use before [`Self::charge_task`] has something to
    /// decide.
    pub(super) fn current_budget(&self, vcpu: Vcpu) -> Option<Nanos> {
        let runqueue = self.runqueues.get(vcpu.index())?;
        let task = self.tasks.get(runqueue.current)?;
        if matches!(task.class, Class::Fifo(_)) || runqueue.nr_running <= 1 {
            return None;
        }
        let slice = self.slices.of(task.static_prio);
        if task.slice_left <= 0 {
            return Some(Nanos((slice.0 as i64 / DEBTOR_TURN) as u64));
        }
        let mut budget = task.slice_left;
        let has_peer = task.place == runqueue.active_place() && !runqueue.active().is_single(task.prio);
        if has_peer && let Some(left_then) = granule_end(task, slice, self.nr_vcpus()) {
            budget -= left_then;
        }
        Some(Nanos(budget as u64))
    }
}

/// Gives what will be left of a task's slice when its current granule ends: the point at which it goes
/// behind its peers. `None` if it is not interactive or less than a granule would be left.
fn granule_end(task: &Task, slice: Nanos, nr_vcpus: u16) -> Option<i64> {
    let slice = slice.0 as i64;
    let granule = granularity(task.bonus(), nr_vcpus).0 as i64;
    // After a nice change more than a slice may be left; otherwise a slice of less than two granules has no
    // boundary.
    if !task.is_interactive() || (slice < 2 * granule && task.slice_left <= slice) {
        return None;
    }
    let used = slice - task.slice_left;
    let left_then = slice - (used.div_euclid(granule) + 1) * granule;
    (left_then >= granule).then_some(left_then)
}

#[cfg(test)]
mod tests {
    use super::super::prio::MAX_SLEEP_AVG;
    use super::*;
    use crate::types::TaskParams;

    const SLICE: Nanos = Nanos::from_millis(100);

    fn interactive(slice_left_ms: i64) -> Task {
        let mut task = Task::new(TaskParams::default(), 0, SLICE, Nanos::ZERO);
        task.set_sleep_avg(MAX_SLEEP_AVG);
        task.prio = task.wanted_prio();
        task.slice_left = slice_left_ms * 1_000_000;
        task
    }

    #[test]
    fn granule_end_fresh_slice_is_ten_ms_on() {
        assert_eq!(granule_end(&interactive(100), SLICE, 1), Some(90_000_000));
        assert_eq!(granule_end(&interactive(95), SLICE, 1), Some(90_000_000));
    }

    #[test]
    fn granule_end_last_granule_has_none() {
        assert_eq!(granule_end(&interactive(21), SLICE, 1), Some(20_000_000));
        assert_eq!(granule_end(&interactive(20), SLICE, 1), Some(10_000_000));
        assert_eq!(granule_end(&interactive(11), SLICE, 1), Some(10_000_000));
        assert_eq!(granule_end(&interactive(10), SLICE, 1), None);
    }

    #[test]
    fn granule_end_two_vcpus_doubles() {
        assert_eq!(granule_end(&interactive(100), SLICE, 2), Some(80_000_000));
    }

    #[test]
    fn granule_end_not_interactive_has_none() {
        let task = Task::new(TaskParams::default(), 0, SLICE, Nanos::ZERO);
        assert_eq!(granule_end(&task, SLICE, 1), None);
    }
}
