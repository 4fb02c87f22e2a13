//! Shares of a CPU: the group against a program outside.

use anyhow::Result;

use crate::bench::procs::{Load, cpu_of};
use crate::bench::report::{On, Row, Target};
use crate::bench::{Bench, Side};

/// A alone, B and C in a group: 50 / 25 / 25.
pub(super) fn session(bench: &Bench) -> Result<Vec<Row>> {
    let loads = [Load::spin(bench.cpu)?, Load::spin(bench.cpu)?, Load::spin(bench.cpu)?];
    let mut mode = String::new();
    let pairs = bench.pairs(|side| {
        let fence = bench.fence(side, "session", Some(10_000))?;
        fence.take(loads[1].pid())?;
        fence.take(loads[2].pid())?;
        if let crate::bench::Fence::Ours(group) = &fence {
            mode = group.read("mode")?;
        }
        bench.settle(2);
        let before = [loads[0].cpu()?, loads[1].cpu()?, loads[2].cpu()?];
        let length = bench.pass();
        let mut used = [0.0; 3];
        for (i, load) in loads.iter().enumerate() {
            used[i] = (load.cpu()? - before[i]) as f64;
        }
        let all: f64 = used.iter().sum();
        Ok(used.iter().map(|u| 100.0 * u / all).chain([100.0 * all / length]).collect())
    })?;
    eprintln!("    {mode}");
    let wanted = [("A, outside", 50.0), ("B, in the group", 25.0), ("C, in the group", 25.0)];
    let rows = wanted.iter().enumerate().map(|(i, (name, share))| {
        Row::new(format!("(a) session, share of {name}"), " %", 2, pairs.ours(i))
            .beside("cgroup", pairs.peer(i))
            .target(On::Ours, Target::Near(*share, 0.5))
    });
    let of_cpu = Row::new("(a) session, what the three got of the CPU together", " %", 1, pairs.ours(3));
    Ok(rows.chain([of_cpu.beside("cgroup", pairs.peer(3))]).collect())
}

/// A group of K hogs against one outside: half the CPU, whatever K is.
pub(super) fn crowd(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for k in [2, 10, 100, 1000] {
        let outside = Load::spin(bench.cpu)?;
        let members: Vec<Load> = (0..k).map(|_| Load::spin(bench.cpu)).collect::<Result<_>>()?;
        let mut worker = crate::bench::Series::default();
        let pairs = bench.pairs(|side| {
            let fence = bench.fence(side, "crowd", Some(5_000))?;
            for member in &members {
                fence.take(member.pid())?;
            }
            bench.settle(k);
            let before = (outside.cpu()?, cpu_of(&members)?);
            let worker_before = super::work::worker_cpu(&fence)?;
            let length = bench.pass();
            let (out, group) = (outside.cpu()? - before.0, cpu_of(&members)? - before.1);
            if side == Side::Ours {
                worker.0.push(100.0 * (super::work::worker_cpu(&fence)? - worker_before) as f64 / length);
            }
            Ok(vec![100.0 * group as f64 / (group + out) as f64])
        })?;
        rows.push(
            Row::new(format!("(b) share of a group of {k}, slices of 5 ms"), " %", 2, pairs.ours(0))
                .beside("cgroup", pairs.peer(0))
                .target(On::Ours, Target::Near(50.0, 0.5)),
        );
        rows.push(
            Row::new(format!("(b) its worker, part of one CPU, {k} members"), " %", 3, worker)
                .target(On::Ours, Target::AtMost(0.5)),
        );
    }
    Ok(rows)
}
