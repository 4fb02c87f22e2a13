//! What it costs the application to show a task.

use anyhow::{Context as _, Result};

use super::Bench;
use crate::bench::Side;
use crate::bench::procs::Load;
use crate::bench::report::{On, Row, Target};
use crate::bench::stats::Series;

/// Nanoseconds for each.
fn run(args: &[&str], ops: usize) -> Result<f64> {
    let ops = ops.to_string();
    let mut load = Load::telling(&[args, &["--ops", &ops]].concat())?;
    let numbers = load.hear()?;
    Ok(*numbers.first().context("a load tells its time")? as f64 / 1e3)
}

pub(super) fn all(bench: &Bench) -> Result<Vec<Row>> {
    let ops = bench.sized(2_000_000, 20_000_000);
    let one = bench.pairs(|side| {
        Ok(vec![match side {
            Side::Ours => run(&["publish"], ops)?,
            Side::Peer => run(&["threads"], bench.sized(2_000, 20_000))?,
        }])
    })?;
    let mut rows = vec![
        Row::new("(a) one thread", " ns", 1, one.ours(0))
            .beside("thread", one.peer(0))
            .target(On::Ours, Target::AtMost(40.0)),
    ];
    for (name, threads) in [("one thread", 1), ("two threads", 2)] {
        let number = threads.to_string();
        let beside = bench.pairs(|side| {
            let alone = ["publish", "--threads", &number];
            let args = if side == Side::Ours { [&alone[..], &["--reader"]].concat() } else { alone.to_vec() };
            let ns = run(&args, ops / threads)?;
            Ok(vec![f64::from(threads as u32) * 1e3 / ns])
        })?;
        let Series(values) = beside.ours(0);
        let row = Row::new(format!("(a) {name}, beside a reader"), " M/s", 1, Series(values))
            .beside("no reader", beside.peer(0));
        rows.push(row.target(On::Ours, Target::AtLeast(10.0)));
    }
    Ok(rows)
}
