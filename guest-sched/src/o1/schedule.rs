//! Choosing the next task: 2.6.18's `schedule`.

use super::O1Scheduler;
use super::sleep_avg;
use crate::tables::NIL;
use crate::types::{Class, Nanos};

/// How many tasks in debt may pass their turn in one pick. Beyond that the next one runs in debt, so that a
/// pick takes a bounded time.
const MAX_PASSES: u32 = 32;

impl O1Scheduler {
    /// Chooses the current task of a vcpu: head of the best active list, after a new round or a pull if
    /// there is none.
    ///
    /// A task that owes time (see `charge`) does not run: it goes through a slice end as if it had used
    /// this turn.
    pub(super) fn schedule(&mut self, vcpu: u16, now: Nanos) -> Option<u32> {
        let at = usize::from(vcpu);
        let prev = self.runqueues[at].current;
        if prev != NIL {
            self.switch_from(prev, now);
        }
        if self.runqueues[at].is_idle() {
            self.pull_newly_idle(vcpu, now);
        }
        let mut passes = 0;
        let next = loop {
            let runqueue = &mut self.runqueues[at];
            if runqueue.active().is_empty() {
                if runqueue.is_idle() {
                    runqueue.current = NIL;
                    runqueue.expired_since = None;
                    return None;
                }
                runqueue.swap_arrays();
            }
            let next = runqueue.active().first()?;
            let task = &self.tasks[next];
            if task.slice_left > 0
                || matches!(task.class, Class::Fifo(_))
                || runqueue.nr_running == 1
                || passes == MAX_PASSES
            {
                break next;
            }
            passes += 1;
            self.expire(next, now);
        };
        let runqueue = &mut self.runqueues[at];
        let task = &mut self.tasks[next];
        let place = task.place;
        let new_prio = sleep_avg::credit_first_run(task, now);
        if next != prev {
            task.timestamp = now;
        }
        runqueue.current = next;
        if let Some(prio) = new_prio {
            runqueue.unlink(&mut self.tasks, next);
            self.tasks[next].prio = prio;
            runqueue.push_back(&mut self.tasks, next, place);
        }
        Some(next)
    }

    /// Settles the account of a task that is switched from, or blocks.
    pub(super) fn switch_from(&mut self, index: u32, now: Nanos) {
        let task = &mut self.tasks[index];
        sleep_avg::settle(task, self.slices.of(task.static_prio));
        task.timestamp = now;
    }
}
