//! Medians and spreads of a few runs.

/// The results of the runs of one measurement, in their order.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Series(pub(super) Vec<f64>);

impl Series {
    /// The middle one; of an even number the mean of the two in the middle. NaN of none.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.len(), sorted.len() / 2) {
            (0, _) => f64::NAN,
            (n, half) if n % 2 == 1 => sorted[half],
            (_, half) => f64::midpoint(sorted[half - 1], sorted[half]),
        }
    }

    pub(super) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(super) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// Run by run, this over the other.
    pub(super) fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }

    /// `median [min..max]`; a single run alone.
    pub(super) fn shown(&self, decimals: usize, unit: &str) -> String {
        match self.0.as_slice() {
            [] => "–".into(),
            [one] => format!("{one:.decimals$}{unit}"),
            _ => format!(
                "{:.decimals$}{unit} [{:.decimals$}..{:.decimals$}]",
                self.median(),
                self.min(),
                self.max()
            ),
        }
    }
}

/// The value below which `part` (0 to 1) of the values are. Sorts them.
pub(super) fn percentile(values: &mut [u64], part: f64) -> u64 {
    values.sort_unstable();
    match values.len() {
        0 => 0,
        n => values[((n as f64 * part) as usize).min(n - 1)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_in_the_middle() {
        assert_eq!(Series(vec![3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Series(vec![4.0, 1.0]).median(), 2.5);
        assert!(Series::default().median().is_nan());
    }

    #[test]
    fn series_is_shown_with_its_spread() {
        assert_eq!(Series(vec![1.0, 3.0, 2.0]).shown(1, " %"), "2.0 % [1.0..3.0]");
        assert_eq!(Series(vec![1.0]).shown(2, ""), "1.00");
    }

    #[test]
    fn percentile_is_one_of_the_values() {
        let mut values: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(percentile(&mut values, 0.5), 51);
        assert_eq!(percentile(&mut values, 1.0), 100);
        assert_eq!(percentile(&mut [], 0.5), 0);
    }
}
