//! What the group promised and what it got, over the last ten seconds: the control tree's `cpu.promise`.
//!
//! *Asked* is the CPU time that the group was entitled to: what it got, plus the time in which a member wanted to run, the cap
//! allowed it, and none was on the host's runqueue (gaps of ours). Time that a member waits on the host's
//! runqueue for other processes is the host's decision and no part of the promise. Where the cap binds, *asked* is what
//! the cap allows.

use crate::types::Nanos;

const BUCKETS: usize = 10;
/// A capped group that was not stopped for so long is not held back by its cap.
const FREE_RUN: Nanos = Nanos::from_millis(100);
const BUCKET: Nanos = Nanos::from_secs(1);

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    second: u64,
    asked: u64,
    got: u64,
    overhead: u64,
    excess: u64,
    worst_window: u64,
    longest_park: u64,
}

/// What holds from one event to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Phase {
    /// Tasks that want to run.
    pub nr_runnable: usize,
    /// Tasks on the host's runqueue.
    pub nr_on_host: usize,
    /// How many may be.
    pub places: usize,
    /// Whether the cap or an outer group holds the group off the host.
    pub is_shut: bool,
    /// CPU time per time that the cap allows, in millionths; `None` without a cap.
    pub cap_ppm: Option<u64>,
}

/// Sums over the last ten seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// CPU time that the group was entitled to, ns.
    pub asked_ns: u64,
    /// CPU time that it got, ns.
    pub got_ns: u64,
    /// CPU time of the worker, ns.
    pub overhead_ns: u64,
    /// Time with more on the runqueue than places, ns.
    pub excess_ns: u64,
    /// The longest such time, ns.
    pub worst_window_ns: u64,
    /// The longest time that a runnable member was parked, ns.
    pub longest_park_ns: u64,
    /// Time that this covers, ns.
    pub window_ns: u64,
}

/// The meter.
#[derive(Clone, Debug)]
pub struct Meter {
    buckets: [Bucket; BUCKETS],
    started: Nanos,
    at: Nanos,
    phase: Phase,
    window: u64,
    pending_got: u64,
    pending_cap: u64,
    is_backlogged: bool,
    let_run: u64,
}

impl Meter {
    /// Starts at `now`.
    pub fn new(now: Nanos) -> Self {
        Self {
            buckets: [Bucket::default(); BUCKETS],
            started: now,
            at: now,
            phase: Phase::default(),
            window: 0,
            pending_got: 0,
            pending_cap: 0,
            is_backlogged: false,
            let_run: 0,
        }
    }

    fn bucket(&mut self, now: Nanos) -> &mut Bucket {
        let second = now.0 / BUCKET.0;
        let bucket = &mut self.buckets[(second % BUCKETS as u64) as usize];
        if bucket.second != second {
            *bucket = Bucket { second, ..Bucket::default() };
        }
        bucket
    }

    /// Ends the phase that held since the last call, and begins another one.
    pub fn turn(&mut self, now: Nanos, next: Phase) {
        let past = self.phase;
        let length = now.saturating_sub(self.at).0;
        self.at = self.at.max(now);
        let wanted = past.nr_runnable.min(past.places);
        let missing = wanted.saturating_sub(past.nr_on_host) as u64;
        let limit = if past.is_shut { 0 } else { past.places };
        if past.nr_on_host > limit {
            self.window += length;
            let window = self.window;
            let bucket = self.bucket(now);
            bucket.excess += length;
            bucket.worst_window = bucket.worst_window.max(window);
        } else {
            self.window = 0;
        }
        self.let_run = if past.is_shut { 0 } else { self.let_run + length };
        match past.cap_ppm {
            // The cap's part of the time in which somebody wanted to run; without such time the cap is no promise.
            Some(ppm) if past.nr_runnable > 0 => {
                self.pending_cap += (u128::from(length) * u128::from(ppm) / 1_000_000) as u64;
                self.is_backlogged |= past.is_shut;
            }
            Some(_) => {}
            None if past.is_shut => {}
            None => self.bucket(now).asked += missing * length,
        }
        self.phase = next;
        if past.cap_ppm.is_some() && self.let_run > FREE_RUN.0 {
            // For so long it was others on the host, not the cap, that kept the group from more.
            self.settle_cap(now);
            self.let_run = 0;
        }
    }

    /// A place was empty for so long though somebody wanted to run.
    pub fn missed(&mut self, now: Nanos, length: u64) {
        if self.phase.cap_ppm.is_none() {
            self.bucket(now).asked += length;
        }
    }

    /// A member used CPU time.
    pub fn got(&mut self, now: Nanos, ran: u64) {
        self.pending_got += ran;
        self.bucket(now).got += ran;
        if self.phase.cap_ppm.is_none() {
            self.bucket(now).asked += ran;
            self.pending_got = 0;
        }
    }

    /// A cap's window ended (the group is let run again, or nobody wants to): settles what the cap promised in it.
    pub fn settle_cap(&mut self, now: Nanos) {
        let got = std::mem::take(&mut self.pending_got);
        let cap = std::mem::take(&mut self.pending_cap);
        let asked = if std::mem::take(&mut self.is_backlogged) { cap } else { got };
        self.bucket(now).asked += asked;
    }

    /// The worker used CPU time.
    pub fn overhead(&mut self, now: Nanos, ran: u64) {
        self.bucket(now).overhead += ran;
    }

    /// A runnable member was parked for so long.
    pub fn parked(&mut self, now: Nanos, length: u64) {
        let bucket = self.bucket(now);
        bucket.longest_park = bucket.longest_park.max(length);
    }

    /// Sums up.
    pub fn totals(&self, now: Nanos) -> Totals {
        let second = now.0 / BUCKET.0;
        let oldest = second.saturating_sub(BUCKETS as u64 - 1);
        let mut t = Totals {
            window_ns: now.saturating_sub(self.started.max(Nanos(oldest * BUCKET.0))).0,
            ..Totals::default()
        };
        for b in self.buckets.iter().filter(|b| b.second >= oldest && b.second <= second) {
            t.asked_ns += b.asked;
            t.got_ns += b.got;
            t.overhead_ns += b.overhead;
            t.excess_ns += b.excess;
            t.worst_window_ns = t.worst_window_ns.max(b.worst_window);
            t.longest_park_ns = t.longest_park_ns.max(b.longest_park);
        }
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn busy(on: usize) -> Phase {
        Phase { nr_runnable: 2, nr_on_host: on, places: 1, is_shut: false, cap_ppm: None }
    }

    #[test]
    fn gap_with_demand_is_asked_and_not_got() {
        let mut meter = Meter::new(Nanos::ZERO);
        meter.turn(Nanos::ZERO, busy(1));
        meter.got(Nanos(90 * MS), 90 * MS);
        meter.turn(Nanos(90 * MS), busy(0));

        meter.turn(Nanos(100 * MS), busy(1));

        let totals = meter.totals(Nanos(100 * MS));
        assert_eq!((totals.asked_ns, totals.got_ns), (100 * MS, 90 * MS));
    }

    #[test]
    fn time_with_two_on_host_is_excess() {
        let mut meter = Meter::new(Nanos::ZERO);
        meter.turn(Nanos::ZERO, busy(2));
        meter.turn(Nanos(3 * MS), busy(2));
        meter.turn(Nanos(5 * MS), busy(1));
        meter.turn(Nanos(9 * MS), busy(1));

        let totals = meter.totals(Nanos(9 * MS));
        assert_eq!((totals.excess_ns, totals.worst_window_ns), (5 * MS, 5 * MS));
    }

    #[test]
    fn cap_that_stops_is_what_is_asked_and_one_that_does_not_is_no_promise() {
        let phase =
            |is_shut| Phase { nr_runnable: 1, nr_on_host: 1, places: 1, is_shut, cap_ppm: Some(500_000) };
        let mut meter = Meter::new(Nanos::ZERO);
        meter.turn(Nanos::ZERO, phase(false));
        meter.got(Nanos(9 * MS), 9 * MS);
        meter.turn(Nanos(9 * MS), phase(true));
        meter.turn(Nanos(20 * MS), phase(false));
        meter.settle_cap(Nanos(20 * MS));
        assert_eq!(meter.totals(Nanos(20 * MS)).asked_ns, 10 * MS);

        // Others on the host leave the group a third: the cap never stops it.
        meter.got(Nanos(130 * MS), 37 * MS);
        meter.turn(Nanos(130 * MS), phase(false));

        let totals = meter.totals(Nanos(130 * MS));
        assert_eq!((totals.asked_ns, totals.got_ns), (47 * MS, 46 * MS));
    }

    #[test]
    fn old_seconds_are_forgotten() {
        let mut meter = Meter::new(Nanos::ZERO);
        meter.got(Nanos(0), 7 * MS);

        assert_eq!(meter.totals(Nanos::from_secs(9)).got_ns, 7 * MS);
        assert_eq!(meter.totals(Nanos::from_secs(10)).got_ns, 0);
    }
}
