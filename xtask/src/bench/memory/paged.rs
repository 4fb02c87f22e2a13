//! Programs that have more memory than they may have at once.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::Bench;
use super::programs::Program;
use super::sides::{MIB, Tier};
use crate::bench::Side;
use crate::bench::report::{On, Row, Target};
use crate::bench::stats::Series;

const LIMIT: u64 = 64;
const SIZE: u64 = 128;

impl Tier {
    /// How much of a page's words shall not compress, percent.
    const fn noise(self) -> u64 {
        match self {
            Self::File => 50,
            Self::Compressed => 20,
        }
    }
}

fn load(bench: &Bench, pattern: &str, tier: Tier) -> Result<Program> {
    let ops = match pattern {
        "sequential" => SIZE * MIB / 4096 * bench.sized(1, 4),
        _ => bench.sized(30_000, 200_000),
    };
    Program::load(&format!("pages --mib {SIZE} --pattern {pattern} --ops {ops} --noise {}", tier.noise()))
}

/// The file tier.
pub(super) fn file(bench: &Bench) -> Result<Vec<Row>> {
    run_times(bench, "a", Tier::File)
}

/// The compressed tier.
pub(super) fn compressed(bench: &Bench) -> Result<Vec<Row>> {
    if bench.zram_lack.is_some() {
        return Ok(Vec::new());
    }
    run_times(bench, "b", Tier::Compressed)
}

fn run_times(bench: &Bench, letter: &str, tier: Tier) -> Result<Vec<Row>> {
    let mut programs = Vec::new();
    for pattern in ["random", "zipf", "sequential"] {
        programs.push((format!("{pattern}, {SIZE} MiB in {LIMIT}"), LIMIT, load(bench, pattern, tier)?));
    }
    programs.push(("python, 256 MiB in 128".into(), 128, Program::python(256)?));
    let mut rows = Vec::new();
    for (name, limit, program) in programs {
        let pairs =
            bench.pairs(|side| Ok(vec![bench.run_paged(side, tier, limit, &program)?.outcome.seconds()]))?;
        rows.push(
            Row::new(format!("({letter}) {}", tier.of(&name)), " s", 2, pairs.ours(0))
                .beside(tier.peer(), pairs.peer(0))
                .target(On::Ratio, Target::AtMost(1.0)),
        );
    }
    Ok(rows)
}

/// How long a fault takes, and what it costs; how fast pages go.
pub(super) fn faults(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for tier in [Tier::File, Tier::Compressed] {
        if tier == Tier::Compressed && bench.zram_lack.is_some() {
            continue;
        }
        rows.extend(latencies(bench, tier)?);
        rows.push(eviction(bench, tier)?);
    }
    Ok(rows)
}

fn latencies(bench: &Bench, tier: Tier) -> Result<Vec<Row>> {
    let program = load(bench, "random", tier)?;
    let mut cpu = Series::default();
    let pairs = bench.pairs(|side| {
        let paged = bench.run_paged(side, tier, LIMIT, &program)?;
        if side == Side::Ours {
            ensure!(paged.nr_faults > 0, "no fault was counted");
            cpu.0.push(paged.worker_usec as f64 / paged.nr_faults as f64);
        }
        let usec = |key| Ok::<_, anyhow::Error>(paged.outcome.get(key)? / 1e3);
        Ok(vec![usec("p50_ns")?, usec("p99_ns")?])
    })?;
    let row = |metric: usize, name: &str| {
        Row::new(format!("(f) {}", tier.of(name)), " µs", 1, pairs.ours(metric))
            .beside(tier.peer(), pairs.peer(metric))
    };
    let cpu =
        Row::new(format!("(f) {}", tier.of("worker's CPU time for each fault from swap")), " µs", 1, cpu);
    Ok(vec![row(0, "fault, p50"), row(1, "fault, p99"), cpu])
}

fn eviction(bench: &Bench, tier: Tier) -> Result<Row> {
    const FILLED: u64 = 192;
    let noise = tier.noise();
    let program =
        Program::load(&format!("pages --mib {FILLED} --pattern random --ops 1000 --noise {noise} --hold"))?;
    let pairs = bench.pairs(|side| {
        let place = bench.place(side, tier)?;
        let fence = place.group("evict", 256 * MIB)?;
        let mut held = fence.start(&program)?;
        held.hear()?;
        let started = Instant::now();
        fence.limit(LIMIT * MIB)?;
        let took = started.elapsed().as_secs_f64();
        held.go()?;
        held.end()?;
        Ok(vec![(FILLED - LIMIT) as f64 / took])
    })?;
    Ok(Row::new(format!("(f) {}", tier.of("eviction")), " MiB/s", 0, pairs.ours(0))
        .beside(tier.peer(), pairs.peer(0)))
}
