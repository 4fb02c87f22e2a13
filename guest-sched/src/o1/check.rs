//! What must hold between the scheduler's tables; for tests and fuzzers.

use super::O1Scheduler;
use super::prio::MAX_SLEEP_AVG;
use super::runqueue::Runqueue;
use super::task::Place;
use crate::tables::NIL;

impl O1Scheduler {
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
        let mut nr_runnable = 0;
        for (index, task) in self.tasks.slots().iter().enumerate() {
            if task.place == Place::Absent {
                continue;
            }
            nr_runnable += u32::from(task.is_runnable());
            if task.sleep_avg() > MAX_SLEEP_AVG {
                return Err(format!("task {index}: sleep average {:?}", task.sleep_avg()));
            }
            if usize::from(task.vcpu) >= self.runqueues.len() {
                return Err(format!("task {index}: no vcpu {}", task.vcpu));
            }
            if task.class.is_realtime() != (task.prio < super::prio::MAX_RT_PRIO) {
                return Err(format!("task {index}: prio {} in class {:?}", task.prio, task.class));
            }
        }
        if nr_runnable != nr_queued || nr_runnable != self.nr_runnable {
            return Err(format!(
                "{nr_runnable} runnable tasks, {nr_queued} queued, {} counted",
                self.nr_runnable
            ));
        }
        Ok(())
    }

    fn check_runqueue(&self, vcpu: u16, runqueue: &Runqueue) -> Result<(), String> {
        let mut load = 0;
        for (array, place) in
            [(runqueue.active(), runqueue.active_place()), (runqueue.expired(), runqueue.expired_place())]
        {
            array.check(self.tasks.slots(), |index, level| {
                let task = &self.tasks[index];
                if task.place != place || task.prio != level || task.vcpu != vcpu {
                    return Err(format!("task {index} is in the list of {level} but says {task:?}"));
                }
                load += task.load_weight();
                Ok(())
            })?;
        }
        if runqueue.active().len() + runqueue.expired().len() != runqueue.nr_running as usize {
            return Err(format!("{} tasks counted as running", runqueue.nr_running));
        }
        if load != runqueue.load {
            return Err(format!("load {load}, counted {}", runqueue.load));
        }
        if self.idle.contains(vcpu) != runqueue.is_idle() {
            return Err("idle set is wrong".to_owned());
        }
        if runqueue.current != NIL {
            let task = self.tasks.get(runqueue.current);
            if task.is_none_or(|task| !task.is_runnable() || task.vcpu != vcpu) {
                return Err(format!("current {} is not runnable here", runqueue.current));
            }
        }
        Ok(())
    }
}
