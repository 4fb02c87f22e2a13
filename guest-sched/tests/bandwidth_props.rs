//! What must hold of `cpu.max` for any limit, any load and any driver that is not too late.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use guest_sched::bandwidth::{BURST, Bandwidth, BandwidthState, MIN_ON_TIME, OFF_TIME};
use guest_sched::{BandwidthError, Nanos};
use proptest::collection::vec;
use proptest::prelude::*;

const SECOND: Nanos = Nanos::from_secs(1);

/// Gives `cpu.max` times a length.
fn quota(percent: u64, length: Nanos) -> u64 {
    (u128::from(length.0) * u128::from(percent) / 100) as u64
}

/// Always busy CPUs under a limit, with a driver that is late by a little each time.
struct Load {
    bandwidth: Bandwidth,
    cpus: u64,
    now: Nanos,
    used: u64,
    longest_stop: Nanos,
}

impl Load {
    fn new(percent: u64, cpus: u64) -> Result<Self, BandwidthError> {
        let mut bandwidth = Bandwidth::new(percent * 1_000, 100_000)?;
        bandwidth.set_vcpus(cpus as u16);
        Ok(Self { bandwidth, cpus, now: Nanos::ZERO, used: 0, longest_stop: Nanos::ZERO })
    }

    /// Lets the group run until it is stopped, and waits that out.
    fn cycle(&mut self, late: Nanos) {
        match self.bandwidth.state(self.now) {
            BandwidthState::Running { budget } => {
                let wall = Nanos(budget.0.min(SECOND.0) / self.cpus) + late;
                self.now += wall;
                self.used += wall.0 * self.cpus;
                self.bandwidth.charge(Nanos(wall.0 * self.cpus), self.now);
            }
            BandwidthState::Throttled { until } => {
                self.longest_stop = self.longest_stop.max(until - self.now);
                self.now = until + late;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn busy_group_uses_its_quota_and_waits_ten_ms_at_most(
        percent in 10_u64..400, cpus in 1_u64..8, lates in vec(0_u64..200, 50),
    ) {
        let mut load = Load::new(percent, cpus).unwrap();
        let mut turn = 0;
        while load.now < Nanos::from_secs(10) {
            load.cycle(Nanos(lates[turn % lates.len()] * 1_000 / cpus));
            turn += 1;
            let most = quota(percent, load.now) + quota(percent, BURST) + MIN_ON_TIME.0 + 200_000 + 50_000 * cpus;
            prop_assert!(load.used <= most, "{} of {most} at {:?}", load.used, load.now);
        }
        let expected = quota(percent.min(100 * cpus), load.now);
        let error = load.used as f64 / expected as f64 - 1.0;
        prop_assert!(error.abs() < 0.01, "{percent} % on {cpus}: {error}");
        prop_assert!(load.longest_stop <= OFF_TIME, "{:?}", load.longest_stop);
    }

    #[test]
    fn any_load_stays_below_quota_and_burst(
        percent in 1_u64..300, steps in vec((0_u64..30_000, 0_u64..30_000), 1..300),
    ) {
        // Each step: the group wants to run for so long, then sleeps for so long (us). It runs only when it
        // may.
        let mut bandwidth = Bandwidth::new(percent * 1_000, 100_000).unwrap();
        let (mut now, mut used) = (Nanos::ZERO, 0);
        for (wanted_us, sleep_us) in steps {
            let mut wanted = Nanos::from_micros(wanted_us);
            while wanted > Nanos::ZERO {
                match bandwidth.state(now) {
                    BandwidthState::Running { budget } => {
                        let ran = wanted.min(budget);
                        now += ran;
                        used += ran.0;
                        wanted -= ran;
                        bandwidth.charge(ran, now);
                    }
                    BandwidthState::Throttled { until } => {
                        prop_assert!(until > now);
                        now = until;
                    }
                }
                let most = quota(percent, now) + quota(percent, BURST).max(MIN_ON_TIME.0) + 2 * MIN_ON_TIME.0;
                prop_assert!(used <= most, "{used} of {most} at {now:?}");
            }
            now += Nanos::from_micros(sleep_us);
        }
    }

    #[test]
    fn any_calls_leave_it_able_to_go_on(
        calls in vec((0_u8..4, any::<u64>(), any::<u32>()), 1..100),
    ) {
        let mut bandwidth = Bandwidth::new(10_000, 100_000).unwrap();
        let mut now = Nanos::ZERO;
        for (call, large, small) in calls {
            now = now.saturating_add(Nanos(u64::from(small)));
            match call {
                0 => bandwidth.charge(Nanos(large), now),
                1 => {
                    let _ = bandwidth.set_limit(Some((large >> 20, u64::from(small) % 2_000_000)), now);
                }
                2 => bandwidth.set_vcpus(small as u16),
                _ => {
                    let limit = bandwidth.limit();
                    prop_assert_eq!(bandwidth.set_limit(Some((0, 100_000)), now), Err(BandwidthError::Quota));
                    prop_assert_eq!(bandwidth.limit(), limit);
                }
            }
            if let BandwidthState::Throttled { until } = bandwidth.state(now) {
                prop_assert!(until > now);
            }
        }
        bandwidth.set_limit(None, now).unwrap();
        prop_assert_eq!(bandwidth.state(now), BandwidthState::Running { budget: Nanos::MAX });
    }
}
