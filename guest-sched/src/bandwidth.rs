//! `cpu.max`: a group's limit of CPU time, in short windows.
//!
//! The kernel gives a group its quota at the start of each period (100 ms by default) and, once that is
//! used, stops it until the next: at 10 % a member waits 90 ms. Here the quota flows in all the time, and a
//! group that has used it up is off for [`OFF_TIME`] and then on until it has used what came in meanwhile:
//!
//! | limit | on | off | a cycle |
//! |---|---|---|---|
//! | 5 % | 0.39 ms | 7.5 ms | 7.9 ms |
//! | 10 % | 0.83 ms | 7.5 ms | 8.3 ms |
//! | 25 % | 2.5 ms | 7.5 ms | 10 ms |
//! | 50 % | 7.5 ms | 7.5 ms | 15 ms |
//! | 90 % | 67.5 ms | 7.5 ms | 75 ms |
//!
//! With what the driver and the host take to stop and to resume somebody, no member waits more than 10 ms for the limit,
//! and there are about as few handovers as that allows. Below 4 % the off time grows instead, so that the on time is not below [`MIN_ON_TIME`].
//!
//! Usage is reported after the fact: what went over comes off the next on times, so that the long-run usage
//! is exact. That is paid in as many turns as it takes, of [`MIN_ON_TIME`] each; only a debt of more than [`DEBT_TURNS`] turns
//! is waited off. A group that does not use its quota keeps at most [`BURST`] worth of it.
//!
//! The driver calls [`Bandwidth::charge`] with what members have used, then [`Bandwidth::state`]; when that
//! says throttled it stops the members and asks again at the given instant.

use crate::types::Nanos;

/// How long a group that has used its quota is off.
pub const OFF_TIME: Nanos = Nanos::from_micros(7_500);
/// The CPU time a group gets at least each time it is on.
pub const MIN_ON_TIME: Nanos = Nanos::from_micros(300);
/// A debt is carried from turn to turn while it is not more than what flows in during so many off times.
pub const DEBT_TURNS: i64 = 4;
/// For how long unused quota is kept: twice the off time, so that nothing is lost when a group is let on a
/// little late.
pub const BURST: Nanos = Nanos(2 * OFF_TIME.0);
/// A budget is not smaller than this, so that a group is not stopped over a rest of some microseconds.
pub const MIN_BUDGET: Nanos = Nanos::from_micros(50);

/// Why a limit is not possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BandwidthError {
    /// The quota is zero: the group could never run.
    #[error("a quota of 0 us")]
    Quota,
    /// The period is not in 1 ms..=1 s, the kernel's bounds.
    #[error("a period of {0} us is not in 1000..=1000000")]
    Period(u64),
}

/// Whether the group may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BandwidthState {
    /// It may.
    Running {
        /// CPU time of all members together after which to charge and ask again; [`Nanos::MAX`] if there is
        /// no need to.
        budget: Nanos,
    },
    /// It may not.
    Throttled {
        /// When to ask again.
        until: Nanos,
    },
}

/// What `cpu.stat` shows of a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BandwidthStats {
    /// How often the group was stopped.
    pub nr_throttled: u64,
    /// How long it was stopped in all, the present stop included as far as it was looked at.
    pub throttled_time: Nanos,
}

/// A quota per period, as in `cpu.max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Limit {
    quota_us: u64,
    period_us: u64,
}

impl Limit {
    /// Gives the CPU time that flows in during `time`.
    fn inflow(self, time: Nanos) -> i64 {
        saturate(u128::from(time.0) * u128::from(self.quota_us) / u128::from(self.period_us))
    }

    /// Gives how long `cpu` takes to flow in, rounded up.
    fn time_for(self, cpu: i64) -> Nanos {
        let cpu = u128::from(cpu.max(0) as u64);
        Nanos(saturate((cpu * u128::from(self.period_us)).div_ceil(u128::from(self.quota_us))) as u64)
    }
}

/// The controller of one group's limit. Every call takes constant time.
#[derive(Clone, Debug)]
pub struct Bandwidth {
    limit: Option<Limit>,
    vcpus: u16,
    /// CPU time the group may use now, ns; negative is debt.
    balance: i64,
    /// What was too little to add to `balance`: ns times `quota_us`, below `period_us`.
    remainder: u64,
    /// The instant up to which inflow is added.
    at: Nanos,
    /// The balance at which the group is stopped: zero, or below it if it came on in debt.
    stop_at: i64,
    throttled_since: Option<Nanos>,
    stats: BandwidthStats,
}

impl Bandwidth {
    /// Makes a limit of `quota_us` of CPU time per `period_us`, for one vcpu. More than 100 % is possible.
    ///
    /// # Errors
    /// A quota of zero, a period outside 1 ms..=1 s.
    pub fn new(quota_us: u64, period_us: u64) -> Result<Self, BandwidthError> {
        let mut bandwidth = Self::unlimited();
        bandwidth.set_limit(Some((quota_us, period_us)), Nanos::ZERO)?;
        Ok(bandwidth)
    }

    /// Makes a controller without a limit.
    pub const fn unlimited() -> Self {
        Self {
            limit: None,
            vcpus: 1,
            balance: 0,
            remainder: 0,
            at: Nanos::ZERO,
            stop_at: 0,
            throttled_since: None,
            stats: BandwidthStats { nr_throttled: 0, throttled_time: Nanos::ZERO },
        }
    }

    /// Changes the limit (quota and period in µs); `None` takes it away. Debt stays, so that setting a
    /// limit anew gives no CPU time.
    ///
    /// # Errors
    /// A quota of zero, a period outside 1 ms..=1 s; the old limit stays.
    pub fn set_limit(&mut self, limit: Option<(u64, u64)>, now: Nanos) -> Result<(), BandwidthError> {
        let limit = match limit {
            None => None,
            Some((0, _)) => return Err(BandwidthError::Quota),
            Some((_, period_us)) if !(1_000..=1_000_000).contains(&period_us) => {
                return Err(BandwidthError::Period(period_us));
            }
            Some((quota_us, period_us)) => Some(Limit { quota_us, period_us }),
        };
        self.advance(now);
        if limit.is_none() {
            self.unthrottle(now);
        }
        if self.limit.is_none()
            && let Some(limit) = limit
        {
            self.balance = on_balance(limit);
        }
        self.limit = limit;
        self.remainder = 0;
        self.stop_at = self.stop_at.min(self.balance).min(0);
        Ok(())
    }

    /// Gives the limit, quota and period in µs.
    pub fn limit(&self) -> Option<(u64, u64)> {
        self.limit.map(|limit| (limit.quota_us, limit.period_us))
    }

    /// Tells how many vcpus may use the quota at once; budgets depend on it, the limit does not.
    pub fn set_vcpus(&mut self, vcpus: u16) {
        self.vcpus = vcpus.max(1);
    }

    /// Takes `used` of CPU time, of any member, off the quota.
    pub fn charge(&mut self, used: Nanos, now: Nanos) {
        let Some(limit) = self.limit else { return };
        self.flow_in(limit, now);
        self.balance = self.balance.saturating_sub(used.0.min(i64::MAX as u64) as i64);
        self.cap(limit);
        if self.balance <= self.stop_at && self.throttled_since.is_none() {
            self.throttled_since = Some(now);
            self.stats.nr_throttled += 1;
        }
    }

    /// Says whether the group may run. To be asked after all usage up to `now` is charged.
    pub fn state(&mut self, now: Nanos) -> BandwidthState {
        let Some(limit) = self.limit else { return BandwidthState::Running { budget: Nanos::MAX } };
        self.advance(now);
        if let Some(since) = self.throttled_since {
            let until = self.throttled_until(limit, since, now);
            if now < until {
                return BandwidthState::Throttled { until };
            }
            self.unthrottle(now);
            self.stop_at = (self.balance - MIN_ON_TIME.0 as i64).min(0);
        }
        BandwidthState::Running { budget: self.budget(limit) }
    }

    /// Gives the counters.
    pub fn stats(&self, now: Nanos) -> BandwidthStats {
        let open = self.throttled_since.map_or(Nanos::ZERO, |since| now.saturating_sub(since));
        BandwidthStats { throttled_time: self.stats.throttled_time.saturating_add(open), ..self.stats }
    }

    fn unthrottle(&mut self, now: Nanos) {
        if let Some(since) = self.throttled_since.take() {
            self.stats.throttled_time = self.stats.throttled_time.saturating_add(now.saturating_sub(since));
        }
    }

    /// Gives the end of the present stop: off time over, and not more in debt than is carried. A limit so low that this would not pay
    /// for the least on time waits for that.
    fn throttled_until(&self, limit: Limit, since: Nanos, now: Nanos) -> Nanos {
        let on = limit.inflow(OFF_TIME);
        let least = if on > MIN_ON_TIME.0 as i64 { -on * DEBT_TURNS } else { MIN_ON_TIME.0 as i64 };
        let missing = least.saturating_sub(self.balance);
        since.saturating_add(OFF_TIME).max(now.saturating_add(limit.time_for(missing)))
    }

    /// Gives the CPU time after which the group will have used its quota, counting what flows in while all
    /// vcpus run.
    fn budget(&self, limit: Limit) -> Nanos {
        let quota = u128::from(limit.quota_us);
        let most = u128::from(limit.period_us) * u128::from(self.vcpus);
        if quota >= most {
            return Nanos::MAX;
        }
        let left = u128::from(self.balance.saturating_sub(self.stop_at).max(0) as u64);
        Nanos(saturate(left * most / (most - quota)) as u64).max(MIN_BUDGET)
    }

    fn advance(&mut self, now: Nanos) {
        if let Some(limit) = self.limit {
            self.flow_in(limit, now);
            self.cap(limit);
        }
        self.at = self.at.max(now);
    }

    fn flow_in(&mut self, limit: Limit, now: Nanos) {
        let elapsed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        let inflow = u128::from(elapsed.0) * u128::from(limit.quota_us) + u128::from(self.remainder);
        self.remainder = (inflow % u128::from(limit.period_us)) as u64;
        self.balance = self.balance.saturating_add(saturate(inflow / u128::from(limit.period_us)));
    }

    fn cap(&mut self, limit: Limit) {
        self.balance = self.balance.min(limit.inflow(BURST).max(MIN_ON_TIME.0 as i64));
    }
}

/// Gives the balance a group that is let on starts with: what flows in during one off time.
fn on_balance(limit: Limit) -> i64 {
    limit.inflow(OFF_TIME).max(MIN_ON_TIME.0 as i64)
}

fn saturate(value: u128) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // In a test a panic is the report.
mod tests {
    use super::*;

    const SECOND: Nanos = Nanos::from_secs(1);

    /// Runs `cpus` always busy CPUs for `length`, each report late by `overrun` and each start late by
    /// `delay`. Gives what was used and the longest stop.
    fn run(
        bandwidth: &mut Bandwidth,
        cpus: u64,
        length: Nanos,
        overrun: Nanos,
        delay: Nanos,
    ) -> (Nanos, Nanos) {
        let (mut now, mut used, mut longest) = (Nanos::ZERO, Nanos::ZERO, Nanos::ZERO);
        while now < length {
            match bandwidth.state(now) {
                BandwidthState::Running { budget } => {
                    let wall = Nanos(budget.0.min(SECOND.0) / cpus) + overrun;
                    now += wall;
                    used += Nanos(wall.0 * cpus);
                    bandwidth.charge(Nanos(wall.0 * cpus), now);
                }
                BandwidthState::Throttled { until } => {
                    longest = longest.max(until - now);
                    now = until + delay;
                }
            }
        }
        (Nanos((u128::from(used.0) * u128::from(SECOND.0) / u128::from(now.0)) as u64), longest)
    }

    #[test]
    fn always_busy_uses_quota_within_a_thousandth() {
        for percent in [5, 10, 25, 50, 90] {
            for overrun_us in [0, 20, 150, 400] {
                let mut bandwidth = Bandwidth::new(percent * 1_000, 100_000).unwrap();
                let (overrun, delay) = (Nanos::from_micros(overrun_us), Nanos::from_micros(overrun_us));
                let (rate, longest) = run(&mut bandwidth, 1, Nanos::from_secs(20), overrun, delay);
                let error = rate.as_secs_f64() * 100.0 / percent as f64 - 1.0;
                let is_payable = percent >= 10 || overrun_us < 150;
                assert!(error.abs() < 0.002 || !is_payable, "{percent} %, {overrun_us} us: {error}");
                if percent >= 10 {
                    assert!(longest <= OFF_TIME + Nanos::from_micros(10), "{percent} %: {longest:?}");
                }
            }
        }
    }

    #[test]
    fn several_vcpus_share_the_quota() {
        for (percent, cpus) in [(10, 4), (50, 2), (150, 2), (390, 4)] {
            let mut bandwidth = Bandwidth::new(percent * 1_000, 100_000).unwrap();
            bandwidth.set_vcpus(cpus);
            let (rate, longest) =
                run(&mut bandwidth, cpus.into(), Nanos::from_secs(20), Nanos::ZERO, Nanos::ZERO);
            let error = rate.as_secs_f64() * 100.0 / percent as f64 - 1.0;
            assert!(error.abs() < 0.002, "{percent} %, {cpus} vcpus: {error}");
            assert!(longest <= OFF_TIME + Nanos::from_micros(10), "{percent} %: {longest:?}");
        }
    }

    #[test]
    fn more_quota_than_vcpus_never_stops() {
        let mut bandwidth = Bandwidth::new(200_000, 100_000).unwrap();
        bandwidth.set_vcpus(2);
        assert_eq!(bandwidth.state(Nanos::ZERO), BandwidthState::Running { budget: Nanos::MAX });
    }

    #[test]
    fn idle_time_is_kept_for_one_burst_only() {
        let mut bandwidth = Bandwidth::new(10_000, 100_000).unwrap();
        let BandwidthState::Running { budget } = bandwidth.state(Nanos::from_secs(3600)) else { panic!() };
        assert_eq!(budget, Nanos(1_666_666));
    }

    #[test]
    fn idle_time_is_not_kept_longer_if_nobody_asks_for_the_state() {
        let mut bandwidth = Bandwidth::new(10_000, 100_000).unwrap();
        let now = Nanos::from_secs(3600);
        bandwidth.charge(Nanos(1), now);
        bandwidth.charge(Nanos::from_millis(2), now);
        assert_eq!(bandwidth.stats(now).nr_throttled, 1);
    }

    #[test]
    fn deep_debt_is_waited_off() {
        let mut bandwidth = Bandwidth::new(10_000, 100_000).unwrap();
        bandwidth.charge(Nanos::from_millis(100), Nanos::from_millis(100));
        let BandwidthState::Throttled { until } = bandwidth.state(Nanos::from_millis(100)) else { panic!() };
        assert!(until > Nanos::from_millis(900) && until < Nanos::from_millis(1_100), "{until:?}");
    }

    #[test]
    fn small_debt_is_paid_without_a_longer_wait() {
        let mut bandwidth = Bandwidth::new(10_000, 100_000).unwrap();
        bandwidth.charge(Nanos::from_micros(2_500), Nanos::from_micros(2_500));
        let BandwidthState::Throttled { until } = bandwidth.state(Nanos::from_micros(2_500)) else {
            panic!()
        };
        assert_eq!(until, Nanos::from_micros(10_000));
        assert_eq!(bandwidth.state(until), BandwidthState::Running { budget: Nanos(MIN_ON_TIME.0 * 10 / 9) });
    }

    #[test]
    fn overuse_of_some_turns_is_paid_in_several_without_a_longer_wait() {
        let mut bandwidth = Bandwidth::new(10_000, 100_000).unwrap();
        let (mut now, mut used, mut nr_turns) = (Nanos::ZERO, 0, 0);
        while now < Nanos::from_secs(2) {
            match bandwidth.state(now) {
                BandwidthState::Running { budget } => {
                    // In one turn of ten the driver is 2 ms late.
                    nr_turns += 1;
                    let ran = budget + if nr_turns % 10 == 0 { Nanos::from_millis(2) } else { Nanos::ZERO };
                    now += ran;
                    used += ran.0;
                    bandwidth.charge(ran, now);
                }
                BandwidthState::Throttled { until } => {
                    assert!(until - now <= OFF_TIME, "{nr_turns}: {:?}", until - now);
                    now = until;
                }
            }
        }
        let rate = used as f64 / now.0 as f64;
        assert!((0.099..0.101).contains(&rate), "{rate}");
    }

    #[test]
    fn counters_count_stops_and_their_time() {
        let mut bandwidth = Bandwidth::new(50_000, 100_000).unwrap();
        run(&mut bandwidth, 1, SECOND, Nanos::ZERO, Nanos::ZERO);
        let stats = bandwidth.stats(SECOND);
        assert!((60..70).contains(&stats.nr_throttled), "{stats:?}");
        assert!((480..520).contains(&(stats.throttled_time.as_micros() / 1_000)), "{stats:?}");
    }

    #[test]
    fn bad_limits_are_refused_and_change_nothing() {
        assert_eq!(Bandwidth::new(0, 100_000).unwrap_err(), BandwidthError::Quota);
        assert_eq!(Bandwidth::new(1, 0).unwrap_err(), BandwidthError::Period(0));
        let mut bandwidth = Bandwidth::new(10_000, 100_000).unwrap();
        assert!(bandwidth.set_limit(Some((1, 2_000_000)), Nanos::ZERO).is_err());
        assert_eq!(bandwidth.limit(), Some((10_000, 100_000)));
    }
}
