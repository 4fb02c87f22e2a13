//! Time lost waiting for memory, in the form of the kernel's PSI.

use super::super::table::Stall;

/// Averages over 10, 60 and 300 s, updated as often as levels are measured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pressure {
    /// Microseconds that some member waited.
    total_usec: u64,
    /// What was waited since the last update.
    pending_usec: u64,
    averages: [f64; 3],
}

impl Pressure {
    /// A member waited so long for a page.
    pub(super) fn stalled(&mut self, usec: u64) {
        self.total_usec += usec;
        self.pending_usec += usec;
    }

    /// Takes what was waited in the last `usec` into the averages.
    pub(super) fn update(&mut self, usec: u64) {
        if usec == 0 {
            return;
        }
        let share = (self.pending_usec as f64 / usec as f64).min(1.0);
        self.pending_usec = 0;
        for (average, window) in self.averages.iter_mut().zip([10e6, 60e6, 300e6]) {
            let keep = (-(usec as f64) / window).exp();
            *average = *average * keep + share * (1.0 - keep);
        }
    }

    /// Gives it as it is published, in 1/100 percent.
    pub(super) fn stall(&self) -> Stall {
        let [avg10, avg60, avg300] = self.averages.map(|a| (a * 10_000.0).round() as u64);
        Stall { avg10, avg60, avg300, total_usec: self.total_usec }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_time_is_half_in_the_end() {
        let mut pressure = Pressure::default();
        for _ in 0..1000 {
            pressure.stalled(50_000);
            pressure.update(100_000);
        }
        let stall = pressure.stall();

        assert_eq!(stall.total_usec, 50_000_000);
        assert!((4990..=5000).contains(&stall.avg10), "{stall:?}");
        assert!(stall.avg300 < stall.avg60 && stall.avg60 < stall.avg10);
        for _ in 0..100 {
            pressure.update(1_000_000);
        }
        assert_eq!(pressure.stall().avg10, 0);
    }
}
