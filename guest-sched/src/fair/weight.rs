//! What nice means here: a weight, and how fast virtual time passes for it.
//!
//! Source of the weights: Linux `sched_prio_to_weight` (since 2.6.23): a step of nice is a factor of 1.25,
//! so that one step makes about 10 % of a CPU between two hogs.

use crate::types::{Nanos, Nice};

/// The weight at nice 0, for which virtual time is CPU time.
pub const NICE_0_WEIGHT: u64 = 1024;

/// The weights of nice -20 to 19.
const WEIGHTS: [u32; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904, 3906, 3121,
    2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29,
    23, 18, 15,
];

/// Fraction bits of [`RATES`].
const RATE_SHIFT: u32 = 40;

/// Virtual time per CPU time, as a fixed-point number: multiplying is cheaper than dividing by the weight.
/// Off by less than one in 2^33.
const RATES: [u64; 40] = {
    let mut rates = [0; 40];
    let mut i = 0;
    while i < 40 {
        rates[i] = (NICE_0_WEIGHT << RATE_SHIFT) / WEIGHTS[i] as u64;
        i += 1;
    }
    rates
};

const fn index(nice: Nice) -> usize {
    (nice.get() + 20) as usize
}

/// Gives the weight of a nice value: 88761 (nice -20) to 15 (nice 19).
pub const fn weight(nice: Nice) -> u64 {
    WEIGHTS[index(nice)] as u64
}

/// Gives the virtual time that `ran` of CPU time is worth: less the heavier the task.
pub fn virtual_time(ran: Nanos, nice: Nice) -> u64 {
    let product = u128::from(ran.0) * u128::from(RATES[index(nice)]);
    u64::try_from(product >> RATE_SHIFT).unwrap_or(u64::MAX)
}

/// Gives the slice of a nice value: in proportion to its weight, but not under an eighth of that at nice 0
/// (a handover must stay cheap against what it is for) nor over four times it (nobody is to wait long for a
/// heavy task).
pub const fn slice(nice_0: Nanos, nice: Nice) -> Nanos {
    let proportional = nice_0.0 as u128 * weight(nice) as u128 / NICE_0_WEIGHT as u128;
    let (least, most) = (nice_0.0 / 8, nice_0.0 * 4);
    if proportional < least as u128 {
        Nanos(least)
    } else if proportional > most as u128 {
        Nanos(most)
    } else {
        Nanos(proportional as u64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // In a test a panic is the report.
mod tests {
    use super::*;

    fn nice(value: i32) -> Nice {
        Nice::new(value).unwrap()
    }

    #[test]
    fn weights_are_those_of_linux() {
        for (value, expected) in
            [(-20, 88_761), (-10, 9_548), (-1, 1_277), (0, 1_024), (1, 820), (10, 110), (19, 15)]
        {
            assert_eq!(weight(nice(value)), expected);
        }
    }

    #[test]
    fn virtual_time_is_cpu_time_at_nice_0_and_inverse_to_weight_else() {
        let second = Nanos::from_secs(1);
        assert_eq!(virtual_time(second, nice(0)), second.0);
        for value in -20..20 {
            let exact = 1e9 * 1024.0 / weight(nice(value)) as f64;
            assert!((virtual_time(second, nice(value)) as f64 - exact).abs() <= 1.1, "nice {value}");
        }
        assert_eq!(virtual_time(Nanos::MAX, nice(19)), u64::MAX);
    }

    #[test]
    fn slice_follows_weight_between_its_bounds() {
        let base = Nanos::from_millis(6);
        assert_eq!(slice(base, nice(0)), base);
        assert_eq!(slice(base, nice(3)), Nanos(6_000_000 * 526 / 1024));
        assert_eq!(slice(base, nice(19)), Nanos::from_micros(750));
        assert_eq!(slice(base, nice(-20)), Nanos::from_millis(24));
    }
}
