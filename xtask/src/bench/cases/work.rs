//! What a group costs: its worker's CPU time, and the work that its members get done.

use anyhow::Result;

use crate::bench::procs::{Load, cpu_of_all_threads};
use crate::bench::report::{On, Row, Target};
use crate::bench::{Bench, Fence, Series, Side};

/// CPU time of a group's worker, nanoseconds; of a cgroup none.
pub(super) fn worker_cpu(fence: &Fence<'_>) -> Result<u64> {
    match fence {
        Fence::Ours(group) => Ok(cpu_of_all_threads(group.worker()?)),
        Fence::Peer(_) => Ok(0),
    }
}

/// The worker with ten busy members, at short slices and at the policy's own; with the CPU for itself, and shared with a hog.
pub(super) fn worker_cost(bench: &Bench) -> Result<Vec<Row>> {
    let members: Vec<Load> = (0..10).map(|_| Load::spin(bench.cpu)).collect::<Result<_>>()?;
    let mut rows = Vec::new();
    for (shared, beside) in [(true, "beside a hog"), (false, "alone on the CPU")] {
        let outside = if shared { Some(Load::spin(bench.cpu)?) } else { None };
        for (slice, name, most) in [(Some(5_000), "5 ms", 0.5), (None, "the policy's own", 0.1)] {
            let mut cost = Series::default();
            let mut daemon = Series::default();
            for _ in 0..bench.runs {
                let fence = bench.fence(Side::Ours, "cost", slice)?;
                for member in &members {
                    fence.take(member.pid())?;
                }
                bench.settle(10);
                let before = (worker_cpu(&fence)?, cpu_of_all_threads(bench.daemon.pid()));
                let length = bench.pass();
                let after = (worker_cpu(&fence)?, cpu_of_all_threads(bench.daemon.pid()));
                cost.0.push(100.0 * (after.0 - before.0) as f64 / length);
                daemon.0.push(100.0 * (after.1 - before.1) as f64 / length);
            }
            let what = format!("(c) worker, part of one CPU, slices: {name}, {beside}");
            rows.push(Row::new(what, " %", 3, cost).target(On::Ours, Target::AtMost(most)));
            rows.push(Row::new(format!("(c) daemon meanwhile, slices: {name}, {beside}"), " %", 3, daemon));
        }
        drop(outside);
    }
    Ok(rows)
}

/// Rounds of counting members, against the same members in a cpu cgroup; a hog beside both.
pub(super) fn work_done(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let outside = Load::spin(bench.cpu)?;
    for (k, slice, name) in [(2, None, "the policy's own"), (10, Some(5_000), "5 ms")] {
        let members: Vec<Load> = (0..k)
            .map(|i| Load::counting(bench.cpu, "spin-count", bench.scratch.path(), &format!("work-{k}-{i}")))
            .collect::<Result<_>>()?;
        let rounds = || members.iter().map(Load::count).sum::<Result<u64>>();
        let pairs = bench.pairs(|side| {
            let fence = bench.fence(side, "work", slice)?;
            for member in &members {
                fence.take(member.pid())?;
            }
            bench.settle(k);
            let before = rounds()?;
            let length = bench.pass();
            Ok(vec![(rounds()? - before) as f64 / (length / 1e9)])
        })?;
        rows.push(
            Row::new(format!("(d) work of {k} members, slices: {name}"), "/s", 0, pairs.ours(0))
                .beside("cgroup", pairs.peer(0))
                .target(On::Ratio, Target::AtLeast(0.99)),
        );
    }
    drop(outside);
    Ok(rows)
}
