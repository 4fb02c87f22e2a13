//! Waking, blocking, choosing, charging.

use super::FairScheduler;
use super::task::Place;
use super::weight::virtual_time;
use crate::policy::Resched;
use crate::tables::NIL;
use crate::types::{Class, Nanos, Vcpu, Waker};

/// How much a waking nice 0 task must be behind the current one to take its place: less would be handovers
/// for nothing.
pub(super) const WAKEUP_GRANULARITY: Nanos = Nanos::from_millis(1);

impl FairScheduler {
    /// Makes a sleeping task runnable. Who slept starts at the vcpu's clock, a little before it if that was
    /// long: it runs soon and has banked nothing else. Who ran ahead of the clock keeps that.
    pub(super) fn wake_up(&mut self, index: u32, by: Waker, now: Nanos) -> Resched {
        let vcpu = self.select_vcpu(index, by);
        self.end_solitude(vcpu, now);
        self.rebase(index, vcpu);
        let clock = self.runqueues[usize::from(vcpu)].clock;
        let credit = if self.tasks[index].class == Class::Batch { 0 } else { self.credit };
        let task = &mut self.tasks[index];
        task.vtime = task.vtime.max(clock.saturating_sub(credit));
        task.slice_left = 0;
        self.activate(index, vcpu, now);
        let runqueue = &self.runqueues[usize::from(vcpu)];
        let is_spared = by == Waker::Sync(Vcpu(vcpu)) && runqueue.current != NIL;
        if !is_spared && self.is_preempted_by(vcpu, index, now) {
            Resched::on(Vcpu(vcpu))
        } else {
            Resched::NO
        }
    }

    /// Brings a vcpu's clock up to date before somebody joins a task that was alone there. While it was,
    /// the driver need not have charged it; what it used is nobody else's loss, but who slept meanwhile is
    /// that much less ahead. The wall time is as good as the CPU time for that.
    pub(super) fn end_solitude(&mut self, vcpu: u16, now: Nanos) {
        let runqueue = &mut self.runqueues[usize::from(vcpu)];
        if runqueue.nr_running != 1 || runqueue.current == NIL {
            return;
        }
        let task = &mut self.tasks[runqueue.current];
        if task.place == Place::Running {
            let alone = now.saturating_sub(runqueue.charged_at);
            task.vtime = task.vtime.saturating_add(virtual_time(alone, task.nice));
            runqueue.charged_at = now;
            runqueue.advance_clock(&self.tasks);
        }
    }

    /// Queues a task that became runnable on a vcpu and is on its scale of virtual time.
    pub(super) fn activate(&mut self, index: u32, vcpu: u16, now: Nanos) {
        self.tasks[index].vcpu = vcpu;
        let runqueue = &mut self.runqueues[usize::from(vcpu)];
        if runqueue.is_idle() {
            self.idle.set(vcpu, false);
        }
        runqueue.account(&self.tasks[index], now);
        runqueue.enqueue(&mut self.tasks, index);
        self.nr_runnable += 1;
    }

    /// Takes a runnable task off its runqueue. Says whether it was current there.
    pub(super) fn deactivate(&mut self, index: u32) -> bool {
        let vcpu = self.tasks[index].vcpu;
        let runqueue = &mut self.runqueues[usize::from(vcpu)];
        runqueue.unlink(&mut self.tasks, index);
        runqueue.unaccount(&self.tasks[index]);
        if runqueue.is_idle() {
            self.idle.set(vcpu, true);
        }
        self.nr_runnable -= 1;
        let task = &mut self.tasks[index];
        task.place = Place::Sleeping;
        task.gives_way = false;
        let was_current = runqueue.current == index;
        if was_current {
            runqueue.current = NIL;
        }
        was_current
    }

    /// Takes a task off its runqueue; the vcpu whose current it was has to pick again.
    pub(super) fn leave(&mut self, index: u32) -> Resched {
        let vcpu = Vcpu(self.tasks[index].vcpu);
        if self.tasks[index].is_runnable() && self.deactivate(index) {
            Resched::on(vcpu)
        } else {
            Resched::NO
        }
    }

    /// Says whether a queued task should run instead of the vcpu's current: real time by priority, before
    /// all others; a time-shared one if it is clearly behind; a batch task never. What the current may have
    /// used since it was last charged counts, so that the driver need not charge it first.
    pub(super) fn is_preempted_by(&self, vcpu: u16, index: u32, now: Nanos) -> bool {
        let runqueue = &self.runqueues[usize::from(vcpu)];
        let Some(current) = self.tasks.get(runqueue.current) else { return true };
        let task = &self.tasks[index];
        match (task.class.is_realtime(), current.class.is_realtime()) {
            (true, true) => task.prio() < current.prio(),
            (true, false) => true,
            (false, true) => false,
            (false, false) => {
                let margin = virtual_time(WAKEUP_GRANULARITY, task.nice);
                let uncharged =
                    now.saturating_sub(runqueue.charged_at).0.min(current.slice_left.max(0) as u64);
                let current_vtime =
                    current.vtime.saturating_add(virtual_time(Nanos(uncharged), current.nice));
                task.class != Class::Batch && task.vtime.saturating_add(margin) < current_vtime
            }
        }
    }

    /// Chooses the current task of a vcpu.
    pub(super) fn schedule(&mut self, vcpu: u16, now: Nanos) -> Option<u32> {
        let at = usize::from(vcpu);
        let runqueue = &mut self.runqueues[at];
        if runqueue.keeps_current(&self.tasks) {
            runqueue.charged_at = now;
            runqueue.advance_clock(&self.tasks);
            return Some(runqueue.current);
        }
        let prev = std::mem::replace(&mut runqueue.current, NIL);
        if self.tasks.get(prev).is_some_and(|task| task.place == Place::Running) {
            runqueue.enqueue(&mut self.tasks, prev);
        }
        if runqueue.is_idle() {
            self.pull_newly_idle(vcpu, now);
        }
        let runqueue = &mut self.runqueues[at];
        let next = runqueue.take_next(&mut self.tasks)?;
        let slice = self.slice_of(next);
        let task = &mut self.tasks[next];
        if task.slice_left <= 0 {
            task.slice_left = slice.0 as i64;
        }
        let runqueue = &mut self.runqueues[at];
        runqueue.current = next;
        runqueue.charged_at = now;
        runqueue.advance_clock(&self.tasks);
        Some(next)
    }

    /// Charges `ran` of CPU time: virtual time passes for the task. Time from before there was anybody else
    /// moves nobody ahead of anybody.
    pub(super) fn charge_task(&mut self, index: u32, ran: Nanos, now: Nanos) -> Resched {
        if ran == Nanos::ZERO {
            return Resched::NO;
        }
        let slice = self.slice_of(index);
        let task = &mut self.tasks[index];
        let vcpu = Vcpu(task.vcpu);
        let runqueue = &mut self.runqueues[vcpu.index()];
        let is_alone = runqueue.nr_running <= 1;
        task.last_ran = now;
        if !task.class.is_realtime() {
            let contended = now.saturating_sub(runqueue.contended_since);
            let counted = if is_alone { ran } else { ran.min(contended) };
            task.vtime = task.vtime.saturating_add(virtual_time(counted, task.nice));
        }
        if matches!(task.class, Class::Fifo(_)) {
            return Resched::NO;
        }
        task.slice_left = task.slice_left.saturating_sub(ran.0.min(i64::MAX as u64) as i64);
        let is_over = task.slice_left <= 0;
        let is_realtime = task.class.is_realtime();
        if is_over && (is_alone || is_realtime) {
            task.slice_left = slice.0 as i64;
        }
        if is_over && task.place == Place::Realtime {
            let prio = task.prio();
            runqueue.realtime.requeue(self.tasks.slots_mut(), index, prio);
        }
        if runqueue.current != index {
            return Resched::NO;
        }
        runqueue.charged_at = now;
        runqueue.advance_clock(&self.tasks);
        if is_over && !is_alone { Resched::on(vcpu) } else { Resched::NO }
    }

    /// Gives way: a time-shared task goes behind the next one that waits, a real-time one to the tail of
    /// its list.
    pub(super) fn give_way(&mut self, index: u32) -> Resched {
        let task = &mut self.tasks[index];
        let vcpu = Vcpu(task.vcpu);
        let runqueue = &mut self.runqueues[vcpu.index()];
        task.slice_left = 0;
        task.gives_way = true;
        if task.place != Place::Running {
            runqueue.unlink(&mut self.tasks, index);
            runqueue.enqueue(&mut self.tasks, index);
        }
        if runqueue.current == index { Resched::on(vcpu) } else { Resched::NO }
    }

    /// Gives how much CPU time the vcpu's current may use before its turn ends.
    pub(super) fn current_budget(&self, vcpu: Vcpu) -> Option<Nanos> {
        let runqueue = self.runqueues.get(vcpu.index())?;
        let task = self.tasks.get(runqueue.current)?;
        if matches!(task.class, Class::Fifo(_)) || runqueue.nr_running <= 1 {
            return None;
        }
        Some(Nanos(task.slice_left.max(1) as u64))
    }
}
