//! How a group is divided, and how groups are held apart.

use std::process::Command;

use anyhow::Result;

use crate::bench::procs::{Load, cpu_of};
use crate::bench::report::{On, Row, Target};
use crate::bench::{Bench, Fence};
use crate::step;

/// Two hogs in a group, one of guest nice 19: 100 : 5 in run time, as their slices are. The kernel's own weights give 68 : 1.
pub(super) fn nice(bench: &Bench) -> Result<Vec<Row>> {
    let (normal, nice) = (Load::spin(bench.cpu)?, Load::spin(bench.cpu)?);
    let pid = nice.pid().to_string();
    let pairs = bench.pairs(|side| {
        let fence = bench.fence(side, "nice", None)?;
        fence.take(normal.pid())?;
        fence.take(nice.pid())?;
        let set = |value: &str| match &fence {
            Fence::Ours(group) => group.write(&format!("{pid}/nice"), value),
            Fence::Peer(_) => step::output(Command::new("renice").args(["-n", value, "-p", &pid])).map(drop),
        };
        set("19")?;
        bench.settle(50);
        let before = (normal.cpu()?, nice.cpu()?);
        bench.pass();
        let after = (normal.cpu()?, nice.cpu()?);
        set("0")?;
        Ok(vec![(after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64])
    })?;
    Ok(vec![
        Row::new("(g) run time of guest nice 0 over guest nice 19", "", 2, pairs.ours(0))
            .beside("cgroup, host nice", pairs.peer(0))
            .target(On::Ours, Target::Near(20.0, 1.0)),
    ])
}

/// Three groups of different sizes on one CPU: a third each.
pub(super) fn side_by_side(bench: &Bench) -> Result<Vec<Row>> {
    const SIZES: [usize; 3] = [1, 10, 100];
    let mut loads: Vec<Vec<Load>> = Vec::new();
    for size in SIZES {
        loads.push((0..size).map(|_| Load::spin(bench.cpu)).collect::<Result<_>>()?);
    }
    let pairs = bench.pairs(|side| {
        let mut fences = Vec::new();
        for (size, members) in SIZES.iter().zip(&loads) {
            let fence = bench.fence(side, &format!("of-{size}"), Some(5_000))?;
            for member in members {
                fence.take(member.pid())?;
            }
            fences.push(fence);
        }
        bench.settle(100);
        let before: Vec<u64> = loads.iter().map(|l| cpu_of(l)).collect::<Result<_>>()?;
        bench.pass();
        let after: Vec<u64> = loads.iter().map(|l| cpu_of(l)).collect::<Result<_>>()?;
        let used: Vec<f64> = after.iter().zip(&before).map(|(a, b)| (a - b) as f64).collect();
        let all: f64 = used.iter().sum();
        Ok(used.iter().map(|u| 100.0 * u / all).collect())
    })?;
    let rows = SIZES.iter().enumerate().map(|(i, size)| {
        Row::new(format!("(h) share of a group of {size} beside two others"), " %", 2, pairs.ours(i))
            .beside("cgroup", pairs.peer(i))
            .target(On::Ours, Target::Near(33.33, 0.33))
    });
    Ok(rows.collect())
}
