//! The table of results.

use anyhow::{Context as _, Result};

use super::stats::Series;

/// What is asked of a number.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Target {
    /// At least.
    AtLeast(f64),
    /// At most.
    AtMost(f64),
    /// So far from a value at most.
    Near(f64, f64),
    /// Nothing is asked; it is shown for comparison.
    None,
}

/// To which number the target applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum On {
    /// Ours.
    Ours,
    /// Ours over the peer's.
    Ratio,
}

/// A line of the table.
#[derive(Clone, Debug)]
pub(super) struct Row {
    what: String,
    unit: &'static str,
    decimals: usize,
    ours: Series,
    peer: Option<(&'static str, Series)>,
    target: Target,
    on: On,
}

impl Row {
    /// A line with our numbers.
    pub(super) fn new(what: impl Into<String>, unit: &'static str, decimals: usize, ours: Series) -> Self {
        Self { what: what.into(), unit, decimals, ours, peer: None, target: Target::None, on: On::Ours }
    }

    /// Sets a peer's numbers beside ours, from the same runs.
    pub(super) fn beside(self, name: &'static str, peer: Series) -> Self {
        Self { peer: Some((name, peer)), ..self }
    }

    /// Asks something of our median, or of the median ratio.
    pub(super) fn target(self, on: On, target: Target) -> Self {
        Self { target, on, ..self }
    }

    fn ratio(&self) -> Option<Series> {
        self.peer.as_ref().map(|(_, peer)| self.ours.over(peer))
    }

    /// Whether the target is met; `None` if there is none.
    fn is_met(&self) -> Option<bool> {
        let value = match self.on {
            On::Ours => self.ours.median(),
            On::Ratio => self.ratio()?.median(),
        };
        match self.target {
            Target::AtLeast(least) => Some(value >= least),
            Target::AtMost(most) => Some(value <= most),
            Target::Near(middle, off) => Some((value - middle).abs() <= off),
            Target::None => None,
        }
    }

    fn target_text(&self) -> String {
        let unit = if self.on == On::Ours { self.unit } else { " × peer" };
        match self.target {
            Target::AtLeast(least) => format!("≥ {least}{unit}"),
            Target::AtMost(most) => format!("≤ {most}{unit}"),
            Target::Near(middle, off) => format!("{middle} ± {off}{unit}"),
            Target::None => "–".into(),
        }
    }

    fn markdown(&self) -> String {
        let peer = self.peer.as_ref().map_or_else(
            || "–".into(),
            |(name, series)| format!("{name}: {}", series.shown(self.decimals, self.unit)),
        );
        let ratio = self.ratio().map_or_else(|| "–".into(), |r| r.shown(3, ""));
        let met = match self.is_met() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        let ours = self.ours.shown(self.decimals, self.unit);
        format!("| {} | {} | {ours} | {peer} | {ratio} | {met} |", self.what, self.target_text())
    }
}

const HEAD: &str = "| what | target | ours | peer | ours / peer | met |\n|---|---|---|---|---|---|\n";

/// The table of some rows.
pub(super) fn table(rows: &[Row]) -> String {
    rows.iter().fold(HEAD.to_owned(), |text, row| text + &row.markdown() + "\n")
}

/// How many targets there are, and how many of them are met.
pub(super) fn tally(rows: &[Row]) -> (usize, usize) {
    let met: Vec<bool> = rows.iter().filter_map(Row::is_met).collect();
    (met.len(), met.iter().filter(|m| **m).count())
}

/// Puts the text of a bench into docs/benchmarks.md, in the place of what it said before.
///
/// # Errors
/// If the file cannot be read or written.
pub(super) fn store(bench: &str, text: &str) -> Result<()> {
    let file = crate::root().join("docs/benchmarks.md");
    let before = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let after = with_section(&before, bench, text);
    std::fs::write(&file, after).with_context(|| format!("write {}", file.display()))
}

/// A section lies between two comments.
fn with_section(before: &str, name: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- bench {name} -->"), format!("<!-- end of bench {name} -->"));
    let section = format!("{begin}\n{}\n{end}", text.trim_end());
    let around = before
        .split_once(&begin)
        .and_then(|(head, rest)| rest.split_once(&end).map(|(_, tail)| format!("{head}{section}{tail}")));
    around.unwrap_or_else(|| format!("{}\n\n{section}\n", before.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        Series(values.to_vec())
    }

    #[test]
    fn row_shows_both_sides_and_whether_the_target_is_met() {
        let row = Row::new("share", " %", 1, series(&[50.1, 50.0, 49.9]))
            .beside("cgroup", series(&[50.0, 50.0, 50.0]))
            .target(On::Ours, Target::Near(50.0, 0.5));

        assert_eq!(
            row.markdown(),
            "| share | 50 ± 0.5 % | 50.0 % [49.9..50.1] | cgroup: 50.0 % [50.0..50.0] | 1.000 [0.998..1.002] | yes |"
        );
        assert_eq!(tally(&[row]), (1, 1));
    }

    #[test]
    fn target_on_the_ratio_looks_at_pairs() {
        let row = Row::new("work", "", 0, series(&[90.0, 180.0]))
            .beside("cgroup", series(&[100.0, 200.0]))
            .target(On::Ratio, Target::AtLeast(0.99));

        assert_eq!(row.is_met(), Some(false));
        assert_eq!(Row::new("x", "", 0, series(&[1.0])).is_met(), None);
    }

    #[test]
    fn section_takes_the_place_of_its_former_self_only() {
        let one = with_section("# Benchmarks\n", "cpu", "old\n");
        let two = with_section(&one, "memory", "memory\n");

        let three = with_section(&two, "cpu", "new\n");

        assert_eq!(three, two.replace("old", "new"));
        assert!(three.contains("<!-- bench memory -->\nmemory\n<!-- end of bench memory -->\n"));
    }
}
