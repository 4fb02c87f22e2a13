//! CPU time of a group's members over the last ten seconds, as the daemon itself reads it from the kernel. Pure: readings come in.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;

/// Where the kernel keeps CPU time of members.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Account {
    /// The cgroup that a member was put into: what its children use, and have used when they end, is in it.
    Cgroup(PathBuf),
    /// A process by itself, with its start time.
    Process(i32, u64),
}

/// How far back is kept: ten seconds, and the reading before.
const KEPT_NS: u64 = 11_000_000_000;
/// Samples that are closer together are one.
const CLOSE_NS: u64 = 250_000_000;

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    readings: HashMap<Account, u64>,
    total_ns: u64,
    /// When, by the monotonic clock, and the total then; oldest first.
    samples: VecDeque<(u64, u64)>,
    /// Whether the group had no members yet at the first sample: then nothing is missing.
    is_whole: bool,
}

impl Ledger {
    /// Takes in what each account says now. What one has that was not there the last time was used since then if it is a cgroup, which is
    /// made when a member joins; what a process has used before it was seen here is not the group's. Gives whether anything was used.
    pub(super) fn sample(&mut self, now_ns: u64, readings: HashMap<Account, u64>) -> bool {
        if self.samples.is_empty() {
            self.is_whole = self.readings.is_empty() && readings.is_empty();
        }
        let used: u64 = readings.iter().map(|(account, reading)| self.used_since(account, *reading)).sum();
        self.readings = readings;
        self.total_ns += used;
        if self.samples.len() > 1
            && self.samples.get(self.samples.len() - 2).is_some_and(|(at, _)| now_ns - at < CLOSE_NS)
        {
            self.samples.pop_back();
        }
        self.samples.push_back((now_ns, self.total_ns));
        while self.samples.get(1).is_some_and(|(at, _)| at + KEPT_NS < now_ns) {
            self.samples.pop_front();
        }
        used > 0
    }

    /// Takes in what one account says, between samples.
    pub(super) fn settle(&mut self, account: Account, reading: u64) {
        self.total_ns += self.used_since(&account, reading);
        self.readings.insert(account, reading);
    }

    fn used_since(&self, account: &Account, reading: u64) -> u64 {
        match (self.readings.get(account), account) {
            // Less than before: made anew.
            (Some(before), _) => reading.checked_sub(*before).unwrap_or(reading),
            (None, Account::Cgroup(_)) if !self.samples.is_empty() => reading,
            (None, _) => 0,
        }
    }

    /// What was used in the time of this length before the last sample; between samples as if evenly. `None` if nothing was read for so
    /// long, unless the group is younger than that.
    pub(super) fn used_ns(&self, window_ns: u64) -> Option<u64> {
        let &(now, total) = self.samples.back()?;
        let start = now.saturating_sub(window_ns);
        let after = self.samples.partition_point(|(at, _)| *at <= start);
        if after == 0 {
            return self.is_whole.then_some(total);
        }
        let &(from, then) = self.samples.get(after - 1)?;
        let at_start = match self.samples.get(after) {
            Some(&(to, next)) => then + scale(next - then, start - from, to - from),
            None => then,
        };
        Some(total - at_start)
    }
}

fn scale(amount: u64, part: u64, whole: u64) -> u64 {
    (u128::from(amount) * u128::from(part) / u128::from(whole.max(1))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn cgroup(name: &str, used: u64) -> (Account, u64) {
        (Account::Cgroup(name.into()), used)
    }

    #[test]
    fn time_used_before_the_first_look_is_not_counted() {
        let mut ledger = Ledger::default();
        ledger.sample(10 * S, HashMap::from([cgroup("a", 7 * S)]));

        assert!(ledger.sample(11 * S, HashMap::from([cgroup("a", 8 * S)])));

        assert_eq!(ledger.used_ns(S), Some(S));
        assert_eq!(ledger.used_ns(S / 2), Some(S / 2));
        assert_eq!(ledger.used_ns(2 * S), None, "not known");
    }

    #[test]
    fn accounts_that_come_and_go_are_counted_while_they_are_there() {
        let mut ledger = Ledger::default();
        ledger.sample(10 * S, HashMap::from([cgroup("a", 0)]));
        // A cgroup is young; a process may have come from elsewhere.
        ledger.sample(11 * S, HashMap::from([cgroup("b", 2), (Account::Process(5, 5), 100 * S)]));
        ledger.sample(12 * S, HashMap::from([cgroup("b", 3), (Account::Process(5, 5), 100 * S + 4)]));

        // Made anew.
        ledger.sample(13 * S, HashMap::from([cgroup("b", 1)]));

        assert_eq!(ledger.used_ns(3 * S), Some(2 + 1 + 4 + 1));
        assert!(!ledger.sample(14 * S, HashMap::from([cgroup("b", 1)])));
        // One that leaves is asked before, and gone at the next look.
        ledger.settle(Account::Cgroup("b".into()), 11);
        ledger.sample(15 * S, HashMap::new());
        assert_eq!(ledger.used_ns(S), Some(10));
    }

    #[test]
    fn young_group_is_counted_from_its_first_member_on() {
        let mut ledger = Ledger::default();
        ledger.sample(10 * S, HashMap::new());
        ledger.sample(11 * S, HashMap::from([cgroup("a", S / 2)]));

        assert_eq!(ledger.used_ns(5 * S), Some(S / 2));
    }

    #[test]
    fn old_samples_are_forgotten_and_close_ones_are_one() {
        let mut ledger = Ledger::default();
        for i in 0..1000u64 {
            ledger.sample(i * S / 10, HashMap::from([cgroup("a", i * S / 20)]));
        }

        assert!(ledger.samples.len() < 60, "{}", ledger.samples.len());
        assert_eq!(ledger.used_ns(10 * S), Some(5 * S));
    }
}
