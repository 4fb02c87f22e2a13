//! When a process that is to give signs of life is taken for hung: keeper and worker watch each other by it.

use host_sys::process::{SchedStat, Stat};

/// How much longer than announced a process may be silent before it is suspected, how long after that it may wait for something, and how
/// long it may be stopped.
pub(super) const SILENCE: u64 = 50_000_000;
/// CPU time that a silent process may use.
const SPIN: u64 = 100_000_000;
/// The same for one that gets no CPU time, or waits in the kernel for what another process could not have sooner either.
const LONG_SILENCE: u64 = 2_000_000_000;

/// CPU time of a process's first thread, which runs the worker's loop.
pub(super) fn own_time(pid: i32) -> u64 {
    SchedStat::open(pid, pid).and_then(|s| s.read()).map_or(0, |(cpu, _)| cpu)
}

/// What was seen of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    stopped_since: Option<u64>,
    /// The beat that is overdue, when that was noticed, and the CPU time that was used by then.
    silent: Option<(u64, u64, u64)>,
}

impl Watch {
    /// Whether something was wrong when it was looked at last.
    pub(super) fn is_alarmed(&self) -> bool {
        self.stopped_since.is_some() || self.silent.is_some()
    }

    /// Whether the sign of life is overdue; `beat` is 0 where none is due.
    pub(super) fn is_overdue(&self, beat: u64, now: u64) -> bool {
        beat != 0 && now > beat + SILENCE
    }

    /// Whether the process, as it looks now, has to be replaced.
    pub(super) fn is_hung(&mut self, look: &Stat, beat: u64, now: u64, own_time: impl Fn() -> u64) -> bool {
        if matches!(look.state, b'T' | b't') {
            let since = *self.stopped_since.get_or_insert(now);
            return now - since >= SILENCE || self.is_overdue(beat, now);
        }
        self.stopped_since = None;
        if !self.is_overdue(beat, now) || look.is_exiting() {
            self.silent = None;
            return false;
        }
        let (since, used) = match self.silent {
            Some((of, since, used)) if of == beat => (since, used),
            _ => {
                let used = own_time();
                self.silent = Some((beat, now, used));
                (now, used)
            }
        };
        let busy = own_time() - used;
        match look.state {
            // Waits for what nobody gives. One that has done something since may have long work, with short waits.
            b'S' => now - since >= if busy == 0 { SILENCE } else { LONG_SILENCE },
            // Spins, or waits for a CPU.
            b'R' => busy >= SPIN || now - since >= LONG_SILENCE,
            // Waits in the kernel, where it cannot be killed anyway.
            _ => now - since >= LONG_SILENCE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn in_state(state: u8) -> Stat {
        Stat { state, ppid: 1, flags: 0, nice: 0, start_time: 0 }
    }

    #[test]
    fn process_that_beats_or_need_not_lives_on() {
        let mut watch = Watch::default();
        assert!(!watch.is_hung(&in_state(b'S'), 0, 1_000 * MS, || 0));
        assert!(!watch.is_hung(&in_state(b'S'), 990 * MS, 1_000 * MS, || 0));
        assert!(!watch.is_hung(&in_state(b'R'), 2_000 * MS, 1_000 * MS, || 0));
    }

    #[test]
    fn stopped_process_is_hung_after_a_moment() {
        let mut watch = Watch::default();
        assert!(!watch.is_hung(&in_state(b'T'), 0, 1_000 * MS, || 0));
        assert!(!watch.is_hung(&in_state(b'T'), 0, 1_040 * MS, || 0));
        assert!(watch.is_hung(&in_state(b'T'), 0, 1_060 * MS, || 0));
        assert!(!watch.is_hung(&in_state(b'S'), 0, 1_070 * MS, || 0));
        assert!(!watch.is_hung(&in_state(b'T'), 0, 1_080 * MS, || 0), "stopped anew");
    }

    #[test]
    fn silent_process_is_hung_unless_it_gets_no_time() {
        let mut waiting = Watch::default();
        assert!(!waiting.is_hung(&in_state(b'S'), 900 * MS, 1_000 * MS, || 5));
        assert!(!waiting.is_hung(&in_state(b'S'), 900 * MS, 1_040 * MS, || 5));
        assert!(waiting.is_hung(&in_state(b'S'), 900 * MS, 1_050 * MS, || 5));
        let mut working = Watch::default();
        assert!(!working.is_hung(&in_state(b'S'), 900 * MS, 1_000 * MS, || 5));
        assert!(!working.is_hung(&in_state(b'S'), 900 * MS, 1_100 * MS, || 6));
        assert!(!working.is_hung(&in_state(b'S'), 1_090 * MS, 1_110 * MS, || 7));
        let mut starved = Watch::default();
        for at in [1_000, 1_500, 2_900] {
            assert!(!starved.is_hung(&in_state(b'R'), 900 * MS, at * MS, || 5), "{at}");
        }
        assert!(starved.is_hung(&in_state(b'R'), 900 * MS, 3_001 * MS, || 5));
        let mut spinning = Watch::default();
        assert!(!spinning.is_hung(&in_state(b'R'), 900 * MS, 1_000 * MS, || 5));
        assert!(!spinning.is_hung(&in_state(b'R'), 900 * MS, 1_030 * MS, || 5 + 30 * MS));
        assert!(spinning.is_hung(&in_state(b'R'), 900 * MS, 1_130 * MS, || 5 + 110 * MS));
    }
}
