//! Balancing between vcpus: 2.6.18's `load_balance` for one flat domain of single CPUs (`SD_CPU_INIT`).
//!
//! # Where this differs from 2.6.18, and why
//!
//! * Averages of the load are brought up to date when the load changes, not by a tick; the values are the
//!   same.
//! * An idle vcpu pulls by the load of the moment, not by the averages: its host CPU time is lost to the
//!   group if it does not.
//! * At most [`MAX_SCANNED`] tasks are looked at per pull (the kernel did so later, as `sched_nr_migrate`):
//!   the time a pull takes does not depend on the number of tasks.
//! * No running task is pushed off its vcpu ("active balance"): that serves CPU affinity and CPU packages,
//!   which vcpus do not have.

use super::O1Scheduler;
use super::prio::{MAX_PRIO, SCHED_LOAD_SCALE};
use super::runqueue::{Balancing, Runqueue};
use crate::tables::{Linked, NIL, PrioArray};
use crate::types::{Nanos, Vcpu, Waker};

const TICK: Nanos = Nanos::from_millis(1);
const MIN_INTERVAL: Nanos = Nanos::from_millis(1);
const MAX_INTERVAL: Nanos = Nanos::from_millis(4);
/// How much longer the intervals of a vcpu that has work are.
const BUSY_FACTOR: u64 = 64;
/// By how much, per cent, another vcpu's load must exceed ours.
const IMBALANCE_PCT: u64 = 125;
/// The same for a pull to the waker's vcpu: half the excess.
const WAKE_IMBALANCE_PCT: u64 = 100 + (IMBALANCE_PCT - 100) / 2;
/// A task that ran so lately is left where its cache is.
const CACHE_HOT_TIME: Nanos = Nanos::from_micros(2_500);
/// ... unless so many attempts have failed.
const CACHE_NICE_TRIES: u32 = 1;
const MAX_SCANNED: u32 = 32;
/// After so many ticks every average equals the load.
const MAX_TICKS: u64 = 64;

/// Which average of the load counts, by occasion: 0 is the load of the moment, `i` is `cpu_load[i - 1]`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occasion {
    Busy = 2,
    Idle = 1,
    NewlyIdle = 0,
}

const WAKE_INDEX: usize = 1;

impl O1Scheduler {
    /// Makes the balancing state of a new vcpu, its first attempt staggered against the others'.
    pub(super) fn new_balancing(&self, vcpu: u16, count: u16, now: Nanos) -> Balancing {
        let stagger = Nanos(TICK.0 * u64::from(vcpu) / u64::from(count));
        Balancing {
            cpu_load: [0; 3],
            averaged_to: now,
            interval: MIN_INTERVAL,
            due: now.saturating_add(MIN_INTERVAL).saturating_add(stagger),
            nr_failed: 0,
        }
    }

    /// Brings a vcpu's load averages up to date; to be called before its load changes.
    pub(super) fn average_load(&mut self, vcpu: u16, now: Nanos) {
        if self.runqueues.len() > 1 {
            self.runqueues[usize::from(vcpu)].average_load(now);
        }
    }

    /// Chooses the vcpu a waking task goes to: its own or, for a waker that is about to sleep, the waker's,
    /// if the loads allow; an idle one instead of a busy one, if there is one.
    pub(super) fn select_vcpu(&mut self, index: u32, by: Waker, now: Nanos) -> u16 {
        let mut vcpu = self.tasks[index].vcpu;
        if self.runqueues.len() == 1 {
            return vcpu;
        }
        if let Waker::Sync(waker) = by
            && waker.0 != vcpu
            && waker.index() < self.runqueues.len()
            && self.is_affine(index, waker.0, now)
        {
            vcpu = waker.0;
        }
        if self.idle.contains(vcpu) { vcpu } else { self.idle.first().unwrap_or(vcpu) }
    }

    /// Says whether a waking task may go to its waker's vcpu.
    fn is_affine(&mut self, index: u32, waker: u16, now: Nanos) -> bool {
        let task = &self.tasks[index];
        let (home, weight) = (task.vcpu, task.load_weight());
        self.average_load(home, now);
        self.average_load(waker, now);
        let there = &self.runqueues[usize::from(waker)];
        let leaving = self.tasks.get(there.current).map_or(0, |task| task.load_weight());
        let load_there = there.target_load(WAKE_INDEX).saturating_sub(leaving);
        let load_here = self.runqueues[usize::from(home)].source_load(WAKE_INDEX);
        let per_task = there.load_per_task();
        let target_here = self.runqueues[usize::from(home)].target_load(WAKE_INDEX);
        (load_there <= load_here && load_there + target_here <= per_task)
            || 100 * (load_there + weight) <= WAKE_IMBALANCE_PCT * load_here
    }

    /// Pulls work to a vcpu that is about to go idle.
    pub(super) fn pull_newly_idle(&mut self, vcpu: u16, now: Nanos) {
        if self.nr_runnable > u32::from(self.nr_vcpus() - self.idle.len())
            && let Some((busiest, amount)) = self.find_busiest(vcpu, Occasion::NewlyIdle, now)
        {
            self.move_tasks(busiest, vcpu, amount, now);
        }
    }

    /// Evens out the runqueues whose time has come.
    pub(super) fn balance_due_vcpus(&mut self, now: Nanos, resched: &mut Vec<Vcpu>) {
        for vcpu in 0..self.nr_vcpus() {
            if self.runqueues[usize::from(vcpu)].balancing.due <= now {
                self.balance_vcpu(vcpu, now, resched);
            }
        }
        self.plan_balance();
    }

    /// Finds the instant of the next attempt.
    pub(super) fn plan_balance(&mut self) {
        self.balance_due =
            self.runqueues.iter().map(|runqueue| runqueue.balancing.due).min().unwrap_or(Nanos::MAX);
    }

    fn balance_vcpu(&mut self, vcpu: u16, now: Nanos, resched: &mut Vec<Vcpu>) {
        let at = usize::from(vcpu);
        let occasion = if self.runqueues[at].is_idle() { Occasion::Idle } else { Occasion::Busy };
        let found = self.find_busiest(vcpu, occasion, now);
        let nr_moved = found.map(|(busiest, amount)| self.move_tasks(busiest, vcpu, amount, now));
        if nr_moved.is_some_and(|nr| nr > 0) {
            let runqueue = &self.runqueues[at];
            let best = runqueue.active().first_level(0).unwrap_or(MAX_PRIO);
            if runqueue.is_preempted_by(best, &self.tasks) {
                resched.push(Vcpu(vcpu));
            }
        }
        let runqueue = &mut self.runqueues[at];
        let is_busy = !runqueue.is_idle();
        let balancing = &mut runqueue.balancing;
        match nr_moved {
            Some(0) => balancing.nr_failed += 1,
            Some(_) => {
                balancing.nr_failed = 0;
                balancing.interval = MIN_INTERVAL;
            }
            None => {
                balancing.nr_failed = 0;
                balancing.interval = MAX_INTERVAL.min(Nanos(balancing.interval.0 * 2));
            }
        }
        let factor = if is_busy { BUSY_FACTOR } else { 1 };
        balancing.due = now.saturating_add(Nanos(balancing.interval.0 * factor));
    }

    /// Finds the vcpu to pull from, and how much load: `find_busiest_group` with groups of one.
    fn find_busiest(&mut self, vcpu: u16, occasion: Occasion, now: Nanos) -> Option<(u16, u64)> {
        let index = occasion as usize;
        let mut total = 0;
        let mut busiest: Option<(u16, u64)> = None;
        for (other, runqueue) in (0..).zip(&mut self.runqueues) {
            runqueue.average_load(now);
            if other == vcpu {
                total += runqueue.target_load(index);
                continue;
            }
            let load = runqueue.source_load(index);
            total += load;
            if runqueue.nr_running > 1 && busiest.is_none_or(|(_, most)| load > most) && load > 0 {
                busiest = Some((other, load));
            }
        }
        let (busiest, max) = busiest?;
        let this = &self.runqueues[usize::from(vcpu)];
        let load = this.target_load(index);
        let average = total / self.runqueues.len() as u64;
        if load >= max || load >= average || 100 * max <= IMBALANCE_PCT * load {
            return None;
        }
        let per_task = self.runqueues[usize::from(busiest)].load_per_task();
        let pull = max.saturating_sub(average).min(max.saturating_sub(per_task)).min(average - load);
        if pull >= per_task || is_small_move_worthwhile(this, load, max, per_task) {
            Some((busiest, pull.max(per_task)))
        } else {
            None
        }
    }

    /// Moves tasks worth at most `amount` of load: expired before active (they wait longest and their
    /// caches are coldest), best priority first, from the tail. Gives how many.
    fn move_tasks(&mut self, from: u16, to: u16, amount: u64, now: Nanos) -> u32 {
        let mut left = amount;
        let mut nr_moved = 0;
        let mut nr_scanned = 0;
        let ignores_cache = self.runqueues[usize::from(to)].balancing.nr_failed > CACHE_NICE_TRIES;
        let best_here = {
            let runqueue = &self.runqueues[usize::from(to)];
            let best = |level: Option<u8>| level.unwrap_or(MAX_PRIO);
            best(runqueue.active().first_level(0)).min(best(runqueue.expired().first_level(0)))
        };
        for is_active in [false, true] {
            let mut level = self.array_of(from, is_active).first_level(0);
            while let Some(prio) = level {
                let mut index = self.array_of(from, is_active).tail(prio);
                while index != NIL {
                    if left == 0 || nr_scanned == MAX_SCANNED {
                        return nr_moved;
                    }
                    nr_scanned += 1;
                    let task = &self.tasks[index];
                    let (previous, weight) = (task.prev(), task.load_weight());
                    let is_hot =
                        task.last_ran > Nanos::ZERO && now.saturating_sub(task.last_ran) < CACHE_HOT_TIME;
                    let is_running = self.runqueues[usize::from(from)].current == index;
                    let is_too_heavy = weight > left && (prio >= best_here || nr_moved > 0);
                    if !is_running && !is_too_heavy && (ignores_cache || !is_hot) {
                        self.move_task(index, to, is_active, now);
                        nr_moved += 1;
                        left = left.saturating_sub(weight);
                    }
                    index = previous;
                }
                level = prio.checked_add(1).and_then(|next| self.array_of(from, is_active).first_level(next));
            }
        }
        nr_moved
    }

    fn array_of(&self, vcpu: u16, is_active: bool) -> &PrioArray {
        let runqueue = &self.runqueues[usize::from(vcpu)];
        if is_active { runqueue.active() } else { runqueue.expired() }
    }

    /// Moves one task, which stays active or expired.
    pub(super) fn move_task(&mut self, index: u32, to: u16, is_active: bool, now: Nanos) {
        self.deactivate(index, now);
        self.account(index, to, now);
        let runqueue = &mut self.runqueues[usize::from(to)];
        if is_active {
            runqueue.push_back(&mut self.tasks, index, runqueue.active_place());
        } else {
            runqueue.push_back(&mut self.tasks, index, runqueue.expired_place());
            runqueue.note_expired(self.tasks[index].static_prio, now);
        }
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

/// Says whether moving one task helps though it is more than the imbalance: `small_imbalance` of the kernel.
fn is_small_move_worthwhile(this: &Runqueue, load: u64, max: u64, per_task: u64) -> bool {
    let this_per_task = if this.is_idle() { SCHED_LOAD_SCALE } else { this.load_per_task() };
    let factor = if !this.is_idle() && per_task > this_per_task { 1 } else { 2 };
    if max - load >= per_task * factor {
        return true;
    }
    let power_now = per_task.min(max) + this_per_task.min(load);
    let power_moved =
        per_task.min(max.saturating_sub(per_task)) + this_per_task.min(load + max.min(per_task));
    power_moved > power_now
}

impl Runqueue {
    /// Brings the load averages up to date. The load has been the same since the last call.
    fn average_load(&mut self, now: Nanos) {
        let balancing = &mut self.balancing;
        let ticks = now.saturating_sub(balancing.averaged_to).0 / TICK.0;
        if ticks == 0 {
            return;
        }
        balancing.averaged_to = balancing.averaged_to.saturating_add(Nanos(ticks * TICK.0));
        for (average, shift) in balancing.cpu_load.iter_mut().zip(0..) {
            let scale = 1 << shift;
            for _ in 0..ticks.min(MAX_TICKS) {
                let rounding = if self.load > *average { scale - 1 } else { 0 };
                *average = (*average * (scale - 1) + self.load + rounding) / scale;
            }
        }
    }

    /// Gives a low guess of the load, for a vcpu to pull from.
    fn source_load(&self, index: usize) -> u64 {
        index.checked_sub(1).map_or(self.load, |i| self.balancing.cpu_load[i].min(self.load))
    }

    /// Gives a high guess of the load, for a vcpu to move to.
    fn target_load(&self, index: usize) -> u64 {
        index.checked_sub(1).map_or(self.load, |i| self.balancing.cpu_load[i].max(self.load))
    }

    fn load_per_task(&self) -> u64 {
        self.load.checked_div(u64::from(self.nr_running)).unwrap_or(0)
    }
}
