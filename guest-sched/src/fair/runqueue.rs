//! The runqueue of one vcpu: real-time lists, the calendar, and the vcpu's virtual clock.

use super::calendar::{Calendar, DAY, day_of, start_of};
use super::task::{Place, Task, Tasks};
use crate::tables::{NIL, PrioArray};
use crate::types::Nanos;

/// The most a sleeper's credit can be: the calendar keeps that many days before the clock.
pub(super) const MAX_CREDIT: u64 = 64 * DAY;
/// How many tasks that are due beyond the calendar's end are put back in one pick. Beyond that the next one
/// runs too early, so that a pick takes a bounded time.
const MAX_PASSES: u32 = 32;

/// Real-time and time-shared tasks of one vcpu.
#[derive(Clone, Debug)]
pub(super) struct Runqueue {
    pub(super) realtime: PrioArray,
    pub(super) calendar: Calendar,
    /// The current task, or [`NIL`].
    pub(super) current: u32,
    pub(super) nr_running: u32,
    /// The virtual clock: what a task that comes anew starts from. Never goes back, never passes who is
    /// furthest behind.
    pub(super) clock: u64,
    /// Since when there is more than one runnable task.
    pub(super) contended_since: Nanos,
    /// When the current task was chosen or last charged.
    pub(super) charged_at: Nanos,
    /// Sum of the load weights of the runnable tasks.
    pub(super) load: u64,
}

impl Runqueue {
    pub(super) const fn new() -> Self {
        Self {
            realtime: PrioArray::new(),
            calendar: Calendar::new(),
            current: NIL,
            nr_running: 0,
            clock: 0,
            contended_since: Nanos::ZERO,
            charged_at: Nanos::ZERO,
            load: 0,
        }
    }

    /// Says whether nothing is runnable here.
    pub(super) const fn is_idle(&self) -> bool {
        self.nr_running == 0
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

    /// Queues a task that is in no list: last of its priority, or last on the day of its virtual time.
    pub(super) fn enqueue(&mut self, tasks: &mut Tasks, index: u32) {
        let task = &mut tasks[index];
        let gives_way = std::mem::take(&mut task.gives_way);
        if task.class.is_realtime() {
            task.place = Place::Realtime;
            let prio = task.prio();
            self.realtime.push_back(tasks.slots_mut(), index, prio);
            return;
        }
        let mut day = self.calendar.clamp(day_of(task.vtime));
        if gives_way && let Some(first) = self.calendar.first() {
            day = day.max(first);
        }
        let position = self.calendar.push_back(tasks.slots_mut(), index, day);
        tasks[index].place = Place::Calendar(position);
    }

    /// Takes a task out of the list it is in; its place is left for the caller to set.
    pub(super) fn unlink(&mut self, tasks: &mut Tasks, index: u32) {
        match tasks[index].place {
            Place::Calendar(position) => self.calendar.remove(tasks.slots_mut(), index, position),
            Place::Realtime => {
                let prio = tasks[index].prio();
                self.realtime.remove(tasks.slots_mut(), index, prio);
            }
            Place::Absent | Place::Sleeping | Place::Running => {}
        }
    }

    /// Brings the clock forward to whoever is furthest behind.
    pub(super) fn advance_clock(&mut self, tasks: &Tasks) {
        let first = self.calendar.first().map(start_of);
        let current =
            tasks.get(self.current).filter(|task| task.place == Place::Running).map(|task| task.vtime);
        let behind = match (first, current) {
            (Some(first), Some(current)) => first.min(current),
            (Some(vtime), None) | (None, Some(vtime)) => vtime,
            (None, None) => return,
        };
        self.clock = self.clock.max(behind);
        self.calendar.advance_to(day_of(self.clock.saturating_sub(MAX_CREDIT)));
    }

    /// Says whether the current task goes on: time-shared, with a part of its slice left, and nobody due
    /// before it.
    pub(super) fn keeps_current(&self, tasks: &Tasks) -> bool {
        tasks.get(self.current).is_some_and(|task| {
            task.place == Place::Running
                && task.slice_left > 0
                && !task.gives_way
                && self.realtime.is_empty()
                && self.calendar.first().is_none_or(|first| day_of(task.vtime) <= first)
        })
    }

    /// Takes out the task whose turn it is. A time-shared one is in no list then.
    pub(super) fn take_next(&mut self, tasks: &mut Tasks) -> Option<u32> {
        if let Some(index) = self.realtime.first() {
            return Some(index);
        }
        let mut passes = 0;
        loop {
            let day = self.calendar.first()?;
            let index = self.calendar.head(day);
            self.unlink(tasks, index);
            let is_due = day_of(tasks[index].vtime) <= day;
            if is_due || self.calendar.is_empty() || passes == MAX_PASSES {
                tasks[index].place = Place::Running;
                return Some(index);
            }
            passes += 1;
            self.calendar.advance_to(day.saturating_sub(MAX_CREDIT / DAY));
            self.enqueue(tasks, index);
        }
    }
}
