//! What the fair scheduler keeps of a task.

use crate::tables::{Linked, NIL, Slot, TaskTable};
use crate::types::{Class, Nanos, Nice, TaskParams};

/// Where a task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The slot is free.
    Absent,
    /// Blocked.
    Sleeping,
    /// Time-shared and waiting, in the calendar at this position.
    Calendar(u16),
    /// Time-shared and current: in no list.
    Running,
    /// Real time, waiting or current: in the list of its priority.
    Realtime,
}

/// A task: one cache line, so that one miss brings all that an event needs.
#[repr(C, align(64))]
#[derive(Clone, Debug)]
pub(super) struct Task {
    next: u32,
    prev: u32,
    /// Its virtual time: CPU time over weight, on its vcpu's scale.
    pub(super) vtime: u64,
    /// What is left of its turn, ns of CPU time.
    pub(super) slice_left: i64,
    /// When it last ran; zero if never.
    pub(super) last_ran: Nanos,
    /// The vcpu whose runqueue it is on, or was on last.
    pub(super) vcpu: u16,
    pub(super) nice: Nice,
    pub(super) class: Class,
    pub(super) place: Place,
    /// It gave way: it goes behind the next one that waits.
    pub(super) gives_way: bool,
}

impl Task {
    /// Makes a sleeping task.
    pub(super) fn new(params: TaskParams, vcpu: u16, vtime: u64) -> Self {
        Self { vtime, vcpu, nice: params.nice, class: params.class, place: Place::Sleeping, ..Self::ABSENT }
    }

    /// Says whether it is runnable.
    pub(super) const fn is_runnable(&self) -> bool {
        !matches!(self.place, Place::Absent | Place::Sleeping)
    }

    /// Gives the priority it is shown with; real-time ones are queued by it.
    pub(super) const fn prio(&self) -> u8 {
        match self.class {
            Class::Fifo(rt) | Class::Rr(rt) => 99 - rt.get(),
            Class::Normal | Class::Batch => crate::o1::prio::static_prio(self.nice),
        }
    }

    /// Gives its weight for balancing: a real-time task weighs as much as the heaviest time-shared one.
    pub(super) const fn load_weight(&self) -> u64 {
        super::weight::weight(if self.class.is_realtime() { Nice::MIN } else { self.nice })
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
        vtime: 0,
        slice_left: 0,
        last_ran: Nanos::ZERO,
        vcpu: 0,
        nice: Nice::MAX,
        class: Class::Normal,
        place: Place::Absent,
        gives_way: false,
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
    }
}
