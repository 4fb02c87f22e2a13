//! The slice lengths in force: the table of 2.6.18, or that table scaled to a given length at nice 0.

use super::prio::{DEF_TIMESLICE, MAX_PRIO, MAX_RT_PRIO, time_slice};
use crate::types::Nanos;

const NICE_LEVELS: usize = (MAX_PRIO - MAX_RT_PRIO) as usize;

/// The bounds a configured slice at nice 0 is cut to, so that no slice is zero and no sum overflows.
const SHORTEST: Nanos = Nanos::from_micros(100);
const LONGEST: Nanos = Nanos::from_secs(1_000);

/// One slice length per nice value.
#[derive(Clone, Debug)]
pub(crate) struct Slices {
    lengths: [Nanos; NICE_LEVELS],
    /// A hundredth of the slice at nice 0: what a tick is to the kernel. A slice this short is not split at
    /// fork.
    pub(crate) tick: Nanos,
}

impl Slices {
    /// Makes the table: 2.6.18's own, or in proportion to it with `nice_0` at nice 0 (cut to 100 µs..=1000
    /// s).
    pub(crate) fn new(nice_0: Option<Nanos>) -> Self {
        let nice_0 = nice_0.unwrap_or(DEF_TIMESLICE).clamp(SHORTEST, LONGEST);
        let mut lengths = [Nanos::ZERO; NICE_LEVELS];
        for (length, static_prio) in lengths.iter_mut().zip(MAX_RT_PRIO..) {
            let scaled =
                u128::from(time_slice(static_prio).0) * u128::from(nice_0.0) / u128::from(DEF_TIMESLICE.0);
            *length = Nanos(scaled as u64);
        }
        Self { lengths, tick: Nanos(nice_0.0 / 100) }
    }

    /// Gives the slice of a static priority in 100..=139.
    pub(crate) fn of(&self, static_prio: u8) -> Nanos {
        self.lengths[usize::from(static_prio - MAX_RT_PRIO)]
    }
}
