//! What must hold between the scheduler's tables; for tests and fuzzers.

use super::FairScheduler;
use super::calendar::day_of;
use super::runqueue::Runqueue;
use super::task::Place;
use crate::tables::{NIL, Slot};

impl FairScheduler {
    /// Checks all tables. Linear in the number of tasks.
    ///
    /// # Errors
    /// Says what does not hold.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut nr_queued = 0;
        for (vcpu, runqueue) in (0..).zip(&self.runqueues) {
            self.check_runqueue(vcpu, runqueue).map_err(|what| format!("vcpu {vcpu}: {what}"))?;
            nr_queued += runqueue.nr_running;
        }
        let tasks = || self.tasks.slots().iter().filter(|task| !task.is_absent());
        if tasks().any(|task| usize::from(task.vcpu) >= self.runqueues.len()) {
            return Err("a task is on a vcpu that is not there".to_owned());
        }
        let nr_runnable = tasks().filter(|task| task.is_runnable()).count();
        if nr_runnable != nr_queued as usize || nr_queued != self.nr_runnable {
            return Err(format!("{nr_runnable} runnable, {nr_queued} queued, {} counted", self.nr_runnable));
        }
        Ok(())
    }

    fn check_runqueue(&self, vcpu: u16, runqueue: &Runqueue) -> Result<(), String> {
        let mut load = 0;
        runqueue.realtime.check(self.tasks.slots(), |index, level| {
            let task = &self.tasks[index];
            load += task.load_weight();
            let fits = task.place == Place::Realtime && task.prio() == level && task.vcpu == vcpu;
            if fits {
                Ok(())
            } else {
                Err(format!("task {index} is in the list of {level} but says {task:?}"))
            }
        })?;
        runqueue.calendar.check(self.tasks.slots(), |index, position, day| {
            let task = &self.tasks[index];
            load += task.load_weight();
            if task.place != Place::Calendar(position) || task.vcpu != vcpu || task.class.is_realtime() {
                return Err(format!("task {index} is on day {day} but says {task:?}"));
            }
            if day < day_of(runqueue.clock.saturating_sub(super::runqueue::MAX_CREDIT)) {
                return Err(format!("task {index} is on day {day}, before the clock {}", runqueue.clock));
            }
            Ok(())
        })?;
        let mut nr = runqueue.realtime.len() + runqueue.calendar.len();
        if runqueue.current != NIL {
            let task = self.tasks.get(runqueue.current).ok_or("no current task")?;
            if task.vcpu != vcpu || !matches!(task.place, Place::Running | Place::Realtime) {
                return Err(format!("current {} says {task:?}", runqueue.current));
            }
            if task.place == Place::Running {
                nr += 1;
                load += task.load_weight();
            }
        }
        if nr != runqueue.nr_running as usize || load != runqueue.load {
            return Err(format!(
                "{nr} tasks of load {load}, counted {} {}",
                runqueue.nr_running, runqueue.load
            ));
        }
        if self.idle.contains(vcpu) == runqueue.is_idle() {
            Ok(())
        } else {
            Err("idle set is wrong".to_owned())
        }
    }
}
