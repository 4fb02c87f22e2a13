//! How soon a member that wakes runs, beside a busy one.

use anyhow::{Result, ensure};

use crate::bench::Bench;
use crate::bench::procs::Load;
use crate::bench::report::{On, Row, Target};
use crate::bench::stats::percentile;

/// An interactive member and a hog in a group, a hog outside.
pub(super) fn interactive(bench: &Bench) -> Result<Vec<Row>> {
    let outside = Load::spin(bench.cpu)?;
    let hog = Load::spin(bench.cpu)?;
    let mut sleeper = Load::wake(bench.cpu)?;
    let pairs = bench.pairs(|side| {
        let fence = bench.fence(side, "interactive", None)?;
        fence.take(hog.pid())?;
        fence.take(sleeper.pid())?;
        bench.settle(2);
        sleeper.ask()?;
        let before = (outside.cpu()?, hog.cpu()? + sleeper.cpu()?);
        bench.pass();
        let mut late = sleeper.ask()?;
        ensure!(late.len() > 20, "the interactive member woke only {} times", late.len());
        let (out, group) = (outside.cpu()? - before.0, hog.cpu()? + sleeper.cpu()? - before.1);
        let us = |part, late: &mut Vec<u64>| percentile(late, part) as f64 / 1e3;
        Ok(vec![us(0.5, &mut late), us(0.99, &mut late), 100.0 * group as f64 / (group + out) as f64])
    })?;
    Ok(vec![
        Row::new("(e) interactive member, wake-to-run p50", " µs", 0, pairs.ours(0))
            .beside("cgroup", pairs.peer(0)),
        Row::new("(e) interactive member, wake-to-run p99", " µs", 0, pairs.ours(1))
            .beside("cgroup", pairs.peer(1))
            .target(On::Ratio, Target::AtMost(0.5)),
        Row::new("(e) share of that group", " %", 2, pairs.ours(2)).beside("cgroup", pairs.peer(2)),
    ])
}
