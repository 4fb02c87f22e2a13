//! Looks now and then whether the members' states are what the sensor said, a few at a time: a lost record must not leave a
//! group waiting for somebody who sleeps. The keeper is looked at as well.

use host_sys::process;

use super::{HostState, Worker};
use crate::types::{Nanos, Sleep, TaskId};

const PERIOD: Nanos = Nanos::from_secs(1);
const TASKS_PER_ROUND: usize = 32;

/// When to look next, and at whom.
#[derive(Debug, Default)]
pub(super) struct Audit {
    next: Option<Nanos>,
    at: usize,
    is_full: bool,
}

impl Audit {
    pub(super) fn next(&self) -> Option<Nanos> {
        self.next
    }

    /// Plans a round as long as somebody wants to run, and a last one after that: they may only seem to sleep. An idle group is left alone.
    pub(super) fn arm(&mut self, now: Nanos, is_active: bool) {
        if is_active && self.next.is_none() {
            self.next = Some(now + PERIOD);
        }
    }

    /// Records were lost: everybody is looked at, at once.
    pub(super) fn hurry(&mut self, now: Nanos) {
        self.next = Some(now);
        self.is_full = true;
    }
}

impl Worker {
    /// Looks at the next few members, or at all of them when records were lost.
    pub(super) fn run_audit(&mut self) {
        let slots = self.members.nr_slots();
        let is_full = std::mem::take(&mut self.audit.is_full);
        let count = if is_full { slots } else { slots.min(TASKS_PER_ROUND) };
        for _ in 0..count {
            self.audit.at = (self.audit.at + 1) % slots.max(1);
            self.audit_task(TaskId(self.audit.at as u32));
        }
        if is_full {
            for pid in self.members.processes().collect::<Vec<_>>() {
                if let Ok(alive) = process::threads(pid) {
                    self.adopt_unknown(pid, &alive);
                }
            }
        }
        self.look_at_keeper();
        self.audit.next = None;
    }

    fn audit_task(&mut self, id: TaskId) {
        if self.is_inner(id) {
            return;
        }
        let Some(task) = self.members.task(id) else { return };
        if task.is_arriving {
            return;
        }
        let pid = task.pid;
        let tids: Vec<i32> = self
            .members
            .threads_of(pid)
            .iter()
            .copied()
            .filter(|&t| self.members.thread(t).is_some_and(|t| t.task == id))
            .collect();
        for tid in tids {
            let Some(thread) = self.members.thread(tid) else { continue };
            // Younger news than the look would be in the ring: then the look proves nothing.
            let look = process::thread_stat(pid, tid);
            if self.parts.sensor.has_records() {
                return;
            }
            match look {
                Err(_) => self.strike_out(tid, thread),
                Ok(stat) if stat.is_dead() => self.strike_out(tid, thread),
                Ok(stat) => {
                    let is_only = self.members.task(id).is_some_and(|t| t.nr_threads == 1);
                    let is_wrong = match self.dispatch.host_state(id) {
                        // Parking and resuming do not touch what is known of the thread: only the look counts.
                        Some(HostState::On) if is_only => !stat.is_runnable(),
                        Some(HostState::Asleep) if is_only => stat.is_runnable(),
                        Some(HostState::On | HostState::Asleep) => stat.is_runnable() != thread.is_runnable,
                        _ => false,
                    };
                    if is_wrong {
                        self.set_thread_runnable(tid, stat.is_runnable(), Sleep::Interruptible);
                    }
                }
            }
        }
        self.virtualise_nice(id);
        self.audit_envelope(pid);
    }
}
