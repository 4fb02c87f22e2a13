//! The runqueue of one vcpu.

use super::prio::{MAX_PRIO, STARVATION_LIMIT};
use super::task::{Place, Task, Tasks};
use crate::tables::{NIL, PrioArray};
use crate::types::Nanos;

/// Two priority arrays, the current task, and what the expiry and balancing rules remember.
#[derive(Clone, Debug)]
pub(super) struct Runqueue {
    arrays: [PrioArray; 2],
    /// Which of the arrays is the active one.
    active: u8,
    /// The current task, or [`NIL`].
    pub(super) current: u32,
    pub(super) nr_running: u32,
    /// When the first task of this round expired.
    pub(super) expired_since: Option<Nanos>,
    /// The best static priority among the expired.
    pub(super) best_expired_prio: u8,
    /// Since when there is more than one runnable task.
    pub(super) contended_since: Nanos,
    /// Sum of the load weights of the runnable tasks.
    pub(super) load: u64,
    pub(super) balancing: Balancing,
}

/// What balancing remembers of a runqueue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Balancing {
    /// The load averaged over 1, 2 and 4 ticks.
    pub(super) cpu_load: [u64; 3],
    /// The instant up to which the averages are made, a whole number of ticks.
    pub(super) averaged_to: Nanos,
    pub(super) interval: Nanos,
    pub(super) due: Nanos,
    /// How often in a row nothing could be moved although it should.
    pub(super) nr_failed: u32,
}

impl Runqueue {
    pub(super) fn new(balancing: Balancing) -> Self {
        Self {
            arrays: [const { PrioArray::new() }; 2],
            active: 0,
            current: NIL,
            nr_running: 0,
            expired_since: None,
            best_expired_prio: MAX_PRIO,
            contended_since: Nanos::ZERO,
            load: 0,
            balancing,
        }
    }

    pub(super) const fn active(&self) -> &PrioArray {
        &self.arrays[self.active as usize]
    }

    pub(super) const fn expired(&self) -> &PrioArray {
        &self.arrays[1 - self.active as usize]
    }

    /// Gives where a task of the active array is.
    pub(super) const fn active_place(&self) -> Place {
        Place::Array(self.active)
    }

    /// Gives where a task of the expired array is.
    pub(super) const fn expired_place(&self) -> Place {
        Place::Array(1 - self.active)
    }

    /// Says whether nothing is runnable here.
    pub(super) const fn is_idle(&self) -> bool {
        self.nr_running == 0
    }

    /// Says whether a task of this priority should run instead of the current one.
    pub(super) fn is_preempted_by(&self, prio: u8, tasks: &Tasks) -> bool {
        self.current == NIL || prio < tasks[self.current].prio
    }

    /// Puts a task that is in no array last in its list of one of the arrays.
    pub(super) fn push_back(&mut self, tasks: &mut Tasks, index: u32, place: Place) {
        let Place::Array(array) = place else { return };
        let prio = tasks[index].prio;
        tasks[index].place = place;
        self.arrays[array as usize].push_back(tasks.slots_mut(), index, prio);
    }

    /// Puts a task that is in no array just before `before`, into the same list.
    pub(super) fn insert_before(&mut self, tasks: &mut Tasks, index: u32, before: u32) {
        let Place::Array(array) = tasks[before].place else { return };
        let prio = tasks[before].prio;
        tasks[index].prio = prio;
        tasks[index].place = Place::Array(array);
        self.arrays[array as usize].insert_before(tasks.slots_mut(), index, before, prio);
    }

    /// Takes a task out of its array; its place is left for the caller to set.
    pub(super) fn unlink(&mut self, tasks: &mut Tasks, index: u32) {
        let Place::Array(array) = tasks[index].place else { return };
        let prio = tasks[index].prio;
        self.arrays[array as usize].remove(tasks.slots_mut(), index, prio);
    }

    /// Moves a task to the tail of its list.
    pub(super) fn requeue(&mut self, tasks: &mut Tasks, index: u32) {
        let Place::Array(array) = tasks[index].place else { return };
        let prio = tasks[index].prio;
        self.arrays[array as usize].requeue(tasks.slots_mut(), index, prio);
    }

    /// Counts a task that became runnable here.
    pub(super) fn account(&mut self, task: &Task, now: Nanos) {
        self.nr_running += 1;
        self.load += task.load_weight();
        if self.nr_running == 2 {
            self.contended_since = now;
        }
    }

    /// Takes a task that is runnable here no more out of the counts.
    pub(super) fn unaccount(&mut self, task: &Task) {
        self.nr_running -= 1;
        self.load -= task.load_weight();
    }

    /// Starts a new round: the expired become the active.
    pub(super) fn swap_arrays(&mut self) {
        self.active = 1 - self.active;
        self.expired_since = None;
        self.best_expired_prio = MAX_PRIO;
    }

    /// Remembers that a task of `static_prio` is among the expired.
    pub(super) fn note_expired(&mut self, static_prio: u8, now: Nanos) {
        self.expired_since.get_or_insert(now);
        self.best_expired_prio = self.best_expired_prio.min(static_prio);
    }

    /// Says whether expired tasks have waited so long, or are of so much better nice, that a task of
    /// `static_prio` has to expire though it is interactive.
    pub(super) fn is_expired_starving(&self, static_prio: u8, now: Nanos) -> bool {
        static_prio > self.best_expired_prio
            || self.expired_since.is_some_and(|since| {
                now.saturating_sub(since).0 > STARVATION_LIMIT.0.saturating_mul(u64::from(self.nr_running))
            })
    }
}
