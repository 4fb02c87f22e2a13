//! How many free frames there should be: when the background evictor starts and stops, and what faults leave alone.
//!
//! From Linux 2.6.18's page_alloc.c: `min` is the square root of sixteen times the pool's kilobytes (in kilobytes, 128 to 65536),
//! `low` a quarter more, `high` half more. A pool is small and its owner asked for all of it, so `high` is at most 2 % of it.
//! And since nobody but the evictor itself may not wait here, faults leave far less than `min` alone: `reserve`.

/// The marks, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Watermarks {
    /// Left to reclaim itself: a copy of a shared page, a page of a byte pool.
    pub reserve: u64,
    /// With fewer free, the background evictor starts.
    pub low: u64,
    /// With as many free, it stops.
    pub high: u64,
}

impl Watermarks {
    /// Gives the marks of a pool of `limit` frames.
    pub fn new(limit: u64, has_compressed: bool) -> Self {
        let kilobytes = limit.saturating_mul(4);
        let min = (kilobytes.saturating_mul(16).isqrt().clamp(128, 65_536) / 4).min(limit * 4 / 300);
        let reserve = match limit {
            0..16 => 0,
            16..64 => 1,
            _ => (min / 16).max(if has_compressed { 4 } else { 1 }),
        };
        let low = (min + min / 4).max(reserve + 1).min(limit);
        Self { reserve, low, high: (min + min / 2).max(low + 1).min(limit) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_ordered_and_small() {
        for limit in (0..100_000).step_by(7).chain([1 << 20, 1 << 30]) {
            let marks = Watermarks::new(limit, limit % 2 == 0);
            assert!(marks.reserve <= marks.low && marks.low <= marks.high, "{limit}: {marks:?}");
            assert!(limit < 400 || marks.high * 50 <= limit, "{limit}: {marks:?}");
        }
    }
}
