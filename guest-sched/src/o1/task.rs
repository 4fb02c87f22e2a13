//! What the O(1) scheduler keeps of a task.

use super::prio::{self, prio_of};
use crate::tables::{Linked, NIL, Slot, TaskTable};
use crate::types::{Class, Nanos, Sleep, TaskParams};

/// Where a task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The slot is free.
    Absent,
    /// Blocked.
    Sleeping,
    /// In the runqueue's array with this number (0 or 1; which of them is active changes).
    Array(u8),
}

/// How the last sleep counts; `sleep_type` of 2.6.18.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SleepType {
    /// Has run since it woke, or its sleep is not marked.
    Normal,
    /// Its sleep earns no interactivity (disk, pipes), or has earned all that one sleep can.
    NonInteractive,
    /// Woken by a task and not run since: waiting earns a part of the credit that sleep earns.
    Interactive,
    /// Woken by an interrupt and not run since: waiting earns the same credit as sleep.
    Interrupted,
}

impl From<Sleep> for SleepType {
    fn from(how: Sleep) -> Self {
        match how {
            Sleep::Interruptible => Self::Normal,
            Sleep::Uninterruptible | Sleep::NonInteractive => Self::NonInteractive,
        }
    }
}

/// A task: one cache line, so that one miss brings all that an event needs.
#[repr(C, align(64))]
#[derive(Clone, Debug)]
pub(super) struct Task {
    next: u32,
    prev: u32,
    /// When it blocked (asleep), woke (not run since) or was last switched to or from.
    pub(super) timestamp: Nanos,
    /// When it last ran; zero if never.
    pub(super) last_ran: Nanos,
    /// What is left of the slice, ns of CPU time. At or below zero: it owes that much and passes its turn.
    pub(super) slice_left: i64,
    /// CPU time used since it was switched to, not yet taken off the sleep average.
    pub(super) unsettled: Nanos,
    /// The sleep average, ns, at most one second: fits 32 bits.
    sleep_avg: u32,
    /// The vcpu whose runqueue it is on, or was on last.
    pub(super) vcpu: u16,
    /// What it is queued by.
    pub(super) prio: u8,
    /// 120 plus nice.
    pub(super) static_prio: u8,
    pub(super) class: Class,
    pub(super) place: Place,
    pub(super) sleep_type: SleepType,
    /// Still on the slice it got at fork.
    pub(super) is_first_slice: bool,
}

impl Task {
    /// Makes a sleeping task without a history.
    pub(super) fn new(params: TaskParams, vcpu: u16, slice: Nanos, now: Nanos) -> Self {
        let static_prio = prio::static_prio(params.nice);
        Self {
            timestamp: now,
            slice_left: slice.0 as i64,
            vcpu,
            prio: prio_of(params.class, static_prio, Nanos::ZERO),
            static_prio,
            class: params.class,
            place: Place::Sleeping,
            ..Self::ABSENT
        }
    }

    /// Gives the sleep average.
    pub(super) const fn sleep_avg(&self) -> Nanos {
        Nanos(self.sleep_avg as u64)
    }

    /// Sets the sleep average; more than [`prio::MAX_SLEEP_AVG`] is cut to that.
    pub(super) fn set_sleep_avg(&mut self, value: Nanos) {
        self.sleep_avg = value.min(prio::MAX_SLEEP_AVG).0 as u32;
    }

    /// Gives the bonus, 0..=10.
    pub(super) const fn bonus(&self) -> u8 {
        prio::bonus(self.sleep_avg())
    }

    /// Gives the priority that class, nice and sleep average call for now.
    pub(super) const fn wanted_prio(&self) -> u8 {
        prio_of(self.class, self.static_prio, self.sleep_avg())
    }

    /// Says whether it is time-shared and interactive.
    pub(super) const fn is_interactive(&self) -> bool {
        !self.class.is_realtime() && prio::is_interactive(self.static_prio, self.prio)
    }

    /// Gives its weight for balancing.
    pub(super) const fn load_weight(&self) -> u64 {
        prio::load_weight(self.class, self.static_prio)
    }

    /// Says whether it is runnable.
    pub(super) const fn is_runnable(&self) -> bool {
        matches!(self.place, Place::Array(_))
    }
}

impl Linked for Task {
    fn next(&self) -> u32 {
        self.next
    }
    fn prev(&self) -> u32 {
        self.prev
    }
    fn set_next(&mut self, next: u32) {
        self.next = next;
    }
    fn set_prev(&mut self, prev: u32) {
        self.prev = prev;
    }
}

impl Slot for Task {
    const ABSENT: Self = Self {
        next: NIL,
        prev: NIL,
        timestamp: Nanos::ZERO,
        last_ran: Nanos::ZERO,
        slice_left: 0,
        unsettled: Nanos::ZERO,
        sleep_avg: 0,
        vcpu: 0,
        prio: 120,
        static_prio: 120,
        class: Class::Normal,
        place: Place::Absent,
        sleep_type: SleepType::Normal,
        is_first_slice: false,
    };

    fn is_absent(&self) -> bool {
        self.place == Place::Absent
    }
}

/// All tasks, by number.
pub(super) type Tasks = TaskTable<Task>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_is_one_cache_line() {
        assert_eq!(size_of::<Task>(), 64);
        assert_eq!(align_of::<Task>(), 64);
    }
}
