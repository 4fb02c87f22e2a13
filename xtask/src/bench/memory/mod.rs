//! `cargo xtask bench memory`: the memory rows of the targets, each with its peer beside it in the same run.
//!
//! Both sides run the same programs, started and held, moved into their group while they are small, let go, and timed until they
//! end; each verifies all that it wrote, so a run with a wrong page is no run. Which side is first changes from run to run.
//!
//! - [`programs`]: what is run. - [`sides`]: where it runs, ours, the [`peer`]'s, or bare.
//! - [`paged`], [`costs`], [`neighbours`]: what is measured.

mod costs;
mod neighbours;
mod paged;
mod peer;
mod programs;
mod sides;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use self::peer::{MemController, Zram};
use super::ours::Daemon;
use super::report::{self, Row};
use super::{Pairs, Side, in_turns};
use crate::step;

#[derive(Debug, Args)]
pub(super) struct MemoryArgs {
    /// Two short runs of each instead of five
    #[arg(long)]
    quick: bool,
    /// Only these
    #[arg(long, value_delimiter = ',', value_name = "LETTERS")]
    only: Vec<String>,
    /// How many paired runs
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Measure with this binary instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Write docs/benchmarks.md [default: only after a full run]
    #[arg(long)]
    write: bool,
}

/// What every case needs.
struct Bench {
    daemon: Daemon,
    controller: MemController,
    /// Why there is no zram.
    zram_lack: Option<String>,
    program: PathBuf,
    runs: usize,
    is_quick: bool,
    /// How busy the busiest CPU was before anything of ours ran, percent.
    busy_before: f64,
}

impl Bench {
    fn pairs(&self, measure: impl FnMut(Side) -> Result<Vec<f64>>) -> Result<Pairs> {
        in_turns(self.runs, measure)
    }

    /// One of two, by how long we may take.
    const fn sized(&self, quick: u64, full: u64) -> u64 {
        if self.is_quick { quick } else { full }
    }
}

struct Case {
    letter: &'static str,
    what: &'static str,
    run: fn(&Bench) -> Result<Vec<Row>>,
}

const ALL: &[Case] = &[
    Case { letter: "a", what: "paged programs, file tier", run: paged::file },
    Case { letter: "b", what: "paged programs, lz4 tier inside the limit", run: paged::compressed },
    Case { letter: "c", what: "programs under their limit", run: costs::under_the_limit },
    Case { letter: "d", what: "mappings and children of a member", run: costs::mappings },
    Case { letter: "e", what: "moving in and out", run: costs::moves },
    Case { letter: "f", what: "faults and evictions", run: paged::faults },
    Case { letter: "g", what: "a thrashing neighbour", run: neighbours::thrashing },
];

const NOTES: &str = "\
Programs are held, moved into their group (`rename` in the control tree, a write to `cgroup.procs`), and timed from there to their end; all verify every page. \
*random*, *zipf*, *sequential*: fills its memory, reads pages in that order, 30 % of the accesses write, then checks every word; half of each page's words do not compress in (a), a fifth in (b). \
*python*: builds a list of 256 MiB of records and reads each again. \
*memcg + swap file* is a memory cgroup, and a file in the directory of our file tier, made by `mkswap` and `swapon`. \
*memcg + zram* is one with a zram device with lz4; what that takes up counts against the limit as ours does: \
a process in the cgroup locks as much memory, looking every millisecond. \
(c) and (d) are beside the same program in no group. In (e) a process has all its pages in memory; with half of them allowed, the other half is evicted as it moves in, and brought back as it moves out. \
A fault in (f) is an access of more than 1 µs, in *random* of (a) and (b); *eviction* is the time in which lowering the limit makes 128 of 192 MiB go. \
In (g) the neighbour has 128 MiB in 32 MiB and a group of its own; slowdown is the run time beside it over the run time without it.\n";

/// The task.
///
/// # Errors
/// If something cannot be measured. A target that is not met is no error: it is in the table.
pub(super) fn main(args: &MemoryArgs) -> Result<()> {
    let is_wanted = |c: &&Case| args.only.is_empty() || args.only.iter().any(|o| o == c.letter);
    if args.only.iter().any(|o| ALL.iter().all(|c| c.letter != o)) {
        let known: Vec<_> = ALL.iter().map(|c| format!("{} {}", c.letter, c.what)).collect();
        bail!("--only takes some of:\n  {}", known.join("\n  "));
    }
    let bench = prepare(args)?;
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for case in ALL.iter().filter(is_wanted) {
        eprintln!("({}) {}", case.letter, case.what);
        let started = Instant::now();
        let new = match (case.run)(&bench) {
            Ok(new) => new,
            // The other cases may do.
            Err(error) => {
                eprintln!("({}) {} FAILED: {error:#}", case.letter, case.what);
                failed.push(case.letter);
                continue;
            }
        };
        eprintln!("{}    {:.0} s", report::table(&new), started.elapsed().as_secs_f64());
        rows.extend(new);
    }
    let text = document(&bench, &rows);
    println!("{text}");
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    if args.write || (args.only.is_empty() && !args.quick) {
        report::store("memory", &text)?;
    }
    Ok(())
}

fn prepare(args: &MemoryArgs) -> Result<Bench> {
    let program = super::program(args.program.as_deref())?;
    peer::clean_up();
    let mut busy_before = 0f64;
    for cpu in super::allowed_cpus()? {
        busy_before = busy_before.max(super::busy(cpu)?);
    }
    if busy_before > super::QUIET {
        eprintln!("a CPU is {busy_before:.0} % busy with other things: what is measured now means little");
    }
    let zram_lack = Zram::lack();
    if let Some(lack) = &zram_lack {
        eprintln!("there is no zram to compare with: {lack}");
    }
    Ok(Bench {
        daemon: Daemon::start(&program)?,
        controller: MemController::find()?,
        zram_lack,
        program,
        runs: args.runs.unwrap_or(if args.quick { 2 } else { 5 }),
        is_quick: args.quick,
        busy_before,
    })
}

fn document(bench: &Bench, rows: &[Row]) -> String {
    let (asked, met) = report::tally(rows);
    let version = step::output(Command::new(&bench.program).arg("--version")).unwrap_or_default();
    let lack =
        bench.zram_lack.as_ref().map(|lack| format!(" Nothing beside zram: {lack}.")).unwrap_or_default();
    format!(
        "## Memory\n\n\
         Made by `cargo xtask bench memory`{}: {} on {}, {} CPUs, memory cgroup {}. \
         Numbers are the median of {} paired runs, with the smallest and the largest in brackets; ours and the peer took turns \
         with the same programs. The ratio is taken pair by pair.{lack}\n\n\
         {met} of {asked} targets met. {}\n\n{}\n{NOTES}",
        if bench.is_quick { " --quick" } else { "" },
        version.trim(),
        super::host(),
        super::allowed_cpus().map_or(0, |cpus| cpus.len()),
        bench.controller.version(),
        bench.runs,
        super::disturbance(bench.busy_before),
        report::table(rows),
    )
}
