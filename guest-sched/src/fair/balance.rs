//! Spreading tasks over vcpus: on wake-up, when a vcpu runs dry, and now and then.
//!
//! Virtual time has no meaning between vcpus; a task that moves keeps how far it is ahead of or behind the
//! clock.

use super::FairScheduler;
use crate::tables::NIL;
use crate::types::{Nanos, Vcpu, Waker};

/// How often runqueues are evened out while something waits.
pub(super) const INTERVAL: Nanos = Nanos::from_millis(32);
/// By how much, per cent, another vcpu's load must exceed ours.
const IMBALANCE_PCT: u64 = 125;
/// How many tasks are looked at for one that is light enough, so that a move takes a bounded time.
const MAX_SCANNED: u32 = 32;
/// How many tasks are moved in one go at most.
const MAX_MOVES: u32 = 32;

impl FairScheduler {
    /// Chooses the vcpu a waking task goes to: its own, an idle one if its own is busy, or that of a waker
    /// which is about to sleep, if it is the less loaded one.
    pub(super) fn select_vcpu(&self, index: u32, by: Waker) -> u16 {
        let home = self.tasks[index].vcpu;
        if self.idle.contains(home) {
            return home;
        }
        if let Some(idle) = self.idle.first() {
            return idle;
        }
        let Waker::Sync(waker) = by else { return home };
        let Some(there) = self.runqueues.get(waker.index()) else { return home };
        let leaving = self.tasks.get(there.current).map_or(0, |task| task.load_weight());
        let is_lighter = there.load.saturating_sub(leaving) < self.runqueues[usize::from(home)].load;
        if is_lighter { waker.0 } else { home }
    }

    /// Puts a task's virtual time on the scale of another vcpu. The task is in no list.
    pub(super) fn rebase(&mut self, index: u32, vcpu: u16) {
        let task = &mut self.tasks[index];
        let from = self.runqueues[usize::from(task.vcpu)].clock;
        let to = self.runqueues[usize::from(vcpu)].clock;
        task.vtime = if task.vtime >= from {
            to.saturating_add(task.vtime - from)
        } else {
            to.saturating_sub(from - task.vtime)
        };
    }

    /// Moves a runnable task, or one just taken out of its list, to another vcpu.
    pub(super) fn move_task(&mut self, index: u32, to: u16, now: Nanos) {
        self.deactivate(index);
        self.end_solitude(to, now);
        self.rebase(index, to);
        self.activate(index, to, now);
    }

    /// Pulls one task to a vcpu that is about to go idle, from the one with the most that wait.
    pub(super) fn pull_newly_idle(&mut self, vcpu: u16, now: Nanos) {
        if !self.has_waiting() {
            return;
        }
        let busiest = (0..self.nr_vcpus()).max_by_key(|&other| self.runqueues[usize::from(other)].nr_running);
        if let Some(busiest) = busiest.filter(|&busiest| busiest != vcpu)
            && let Some(index) = self.find_movable(busiest, u64::MAX)
        {
            self.move_task(index, vcpu, now);
        }
    }

    /// Moves tasks from the most to the least loaded vcpu until they are about even. Gives vcpus that
    /// should pick again.
    pub(super) fn even_out(&mut self, now: Nanos, resched: &mut Vec<Vcpu>) {
        self.next_balance = now.saturating_add(INTERVAL);
        for _ in 0..MAX_MOVES {
            let load = |vcpu: &u16| self.runqueues[usize::from(*vcpu)].load;
            let Some(busiest) = (0..self.nr_vcpus()).max_by_key(load) else { return };
            let lightest = self.least_loaded(self.nr_vcpus());
            let (most, least) = (load(&busiest), load(&lightest));
            if 100 * most <= IMBALANCE_PCT * least {
                return;
            }
            // A task heavier than the difference would only turn it round.
            let Some(index) = self.find_movable(busiest, most - least) else { return };
            self.move_task(index, lightest, now);
            if self.is_preempted_by(lightest, index, now) && !resched.contains(&Vcpu(lightest)) {
                resched.push(Vcpu(lightest));
            }
        }
    }

    /// Finds a waiting task of less than `limit` of load: real-time ones first, then whoever has waited
    /// longest.
    fn find_movable(&self, vcpu: u16, limit: u64) -> Option<u32> {
        let runqueue = &self.runqueues[usize::from(vcpu)];
        let mut level = runqueue.realtime.first_level(0);
        while let Some(prio) = level {
            let tail = runqueue.realtime.tail(prio);
            if tail != runqueue.current && self.tasks[tail].load_weight() < limit {
                return Some(tail);
            }
            level = runqueue.realtime.first_level(prio + 1);
        }
        let mut index = runqueue.calendar.first().map_or(NIL, |day| runqueue.calendar.head(day));
        for _ in 0..MAX_SCANNED {
            let task = self.tasks.get(index)?;
            if task.load_weight() < limit {
                return Some(index);
            }
            index = crate::tables::Linked::next(task);
        }
        None
    }

    /// Says whether some runqueue has more tasks than its current.
    pub(super) fn has_waiting(&self) -> bool {
        self.nr_runnable > u32::from(self.nr_vcpus() - self.idle.len())
    }

    /// Gives the vcpu with the least load among the first `count`.
    pub(super) fn least_loaded(&self, count: u16) -> u16 {
        (0..count).min_by_key(|&vcpu| self.runqueues[usize::from(vcpu)].load).unwrap_or(0)
    }

    /// Gives the vcpu with the least load; among equals the next in turn, so that tasks that come asleep
    /// are spread.
    pub(super) fn idlest_vcpu(&mut self) -> u16 {
        let count = self.nr_vcpus();
        let start = self.next_home % count;
        self.next_home = (start + 1) % count;
        let turns = (start..count).chain(0..start);
        turns.min_by_key(|&vcpu| self.runqueues[usize::from(vcpu)].load).unwrap_or(0)
    }
}
