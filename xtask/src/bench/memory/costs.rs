//! What it costs to be a member whose pages are all in memory, to become one, and to be one no more.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::Bench;
use super::programs::Program;
use super::sides::{Fence, MIB, Tier, run_bare};
use crate::bench::Side;
use crate::bench::report::{On, Row, Target};
use crate::bench::stats::Series;

/// Programs that never reach their limit.
pub(super) fn under_the_limit(bench: &Bench) -> Result<Vec<Row>> {
    let ops = bench.sized(500_000, 5_000_000);
    let programs = [
        (
            "random, 64 MiB in 128",
            128,
            Program::load(&format!("pages --mib 64 --pattern random --ops {ops}"))?,
        ),
        ("python, 128 MiB in 512", 512, Program::python(128)?),
    ];
    let mut rows = Vec::new();
    for (name, limit, program) in programs {
        let pairs = bench.pairs(|side| {
            let Side::Ours = side else { return Ok(vec![run_bare(&program)?.seconds()]) };
            let place = bench.place(side, Tier::File)?;
            let fence = place.group("under", limit * MIB)?;
            let outcome = fence.run(&program)?;
            if let Fence::Ours(group) = &fence {
                ensure!(group.key("memory.stat", "pswpout")? == 0, "it was paged");
            }
            Ok(vec![outcome.seconds()])
        })?;
        rows.push(
            Row::new(format!("(c) {name}: nothing paged"), " s", 3, pairs.ours(0))
                .beside("bare", pairs.peer(0))
                .target(On::Ratio, Target::AtMost(1.05)),
        );
    }
    Ok(rows)
}

/// What a member does that its worker has to know of.
pub(super) fn mappings(bench: &Bench) -> Result<Vec<Row>> {
    let pairs_of = bench.sized(3_000, 20_000);
    let children = bench.sized(50, 200);
    let cases = [
        (
            "mmap + munmap of 64 KiB, touched once",
            format!("maps --ops {pairs_of}"),
            (On::Ours, Target::AtMost(15.0)),
        ),
        (
            "mmap + munmap of 64 KiB, each page touched",
            format!("maps --ops {pairs_of} --touch 16"),
            (On::Ours, Target::None),
        ),
        (
            "fork + exec + wait of 64 MiB",
            format!("children --mib 64 --ops {children}"),
            (On::Ours, Target::None),
        ),
    ];
    let mut rows = Vec::new();
    for (name, args, (on, target)) in cases {
        let program = Program::load(&args)?;
        let pairs = bench.pairs(|side| {
            let outcome = if side == Side::Ours {
                let place = bench.place(side, Tier::File)?;
                let fence = place.group("maps", 256 * MIB)?;
                fence.run(&program)?
            } else {
                run_bare(&program)?
            };
            Ok(vec![outcome.get("each_ns")? / 1e3])
        })?;
        rows.push(
            Row::new(format!("(d) {name}"), " µs", 1, pairs.ours(0))
                .beside("bare", pairs.peer(0))
                .target(on, target),
        );
    }
    Ok(rows)
}

/// A running process becomes a member, and stops being one.
pub(super) fn moves(bench: &Bench) -> Result<Vec<Row>> {
    let mib = bench.sized(256, 1024);
    let program = Program::load(&format!("pages --mib {mib} --pattern random --ops 1000 --hold"))?;
    let mut rows = Vec::new();
    for (name, limit) in [("all in memory", mib * 2), ("half of it in memory", mib / 2)] {
        let (mut moved_in, mut moved_out) = (Series::default(), Series::default());
        for _ in 0..bench.runs {
            let place = bench.place(Side::Ours, Tier::File)?;
            let fence = place.group("move", limit * MIB)?;
            let Fence::Ours(group) = &fence else { continue };
            let mut held = super::programs::Held::start(&program)?;
            held.go()?;
            held.hear()?;
            let pid = held.pid();
            let seconds_per_gib = |what: &dyn Fn() -> Result<()>| -> Result<f64> {
                let started = Instant::now();
                what()?;
                Ok(started.elapsed().as_secs_f64() * 1024.0 / mib as f64)
            };
            moved_in.0.push(seconds_per_gib(&|| group.take(pid))?);
            moved_out.0.push(seconds_per_gib(&|| group.release(pid))?);
            held.go()?;
            held.end()?;
        }
        rows.push(Row::new(format!("(e) move in, {name}, for each GiB"), " s", 3, moved_in));
        rows.push(Row::new(format!("(e) move out, {name}, for each GiB"), " s", 3, moved_out));
    }
    Ok(rows)
}
