//! `cargo xtask bench`: the rows of the targets, each with its peer beside it in the same run. `cpu` is here, `memory` in [`memory`], `tasks` in [`tasks`].
//!
//! Everything is read from the kernel's accounting of the programs, nothing from ours. Our side and the peer take turns on the same
//! programs; the order changes from run to run.
//!
//! - [`procs`]: the programs and their accounting. - [`ours`], [`peer`]: the two sides.
//! - [`cases`]: what is measured. - [`report`], [`stats`]: the table.

mod cases;
mod memory;
mod ours;
mod peer;
mod procs;
mod report;
mod stats;
mod tasks;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tempfile::TempDir;

use self::ours::{Daemon, Group};
use self::peer::{CpuCgroup, CpuController};
use self::report::Row;
use self::stats::Series;
use crate::step::{self, run};

/// Measure beside peers.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The CPU half: shares, cost, latency, caps
    Cpu(CpuArgs),
    /// The memory half: paged programs, the cost of being a member, moves, faults
    Memory(memory::MemoryArgs),
    /// Guest tasks: publishing, signals, listings, attributes of the tree
    Tasks(tasks::TasksArgs),
}

#[derive(Debug, Args)]
struct CpuArgs {
    /// Two short runs of each instead of five
    #[arg(long)]
    quick: bool,
    /// Only these
    #[arg(long, value_delimiter = ',', value_name = "LETTERS")]
    only: Vec<String>,
    /// The CPU to measure on [default: the last one that we may use]
    #[arg(long)]
    cpu: Option<usize>,
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
    controller: CpuController,
    program: PathBuf,
    cpu: usize,
    nr_cpus: usize,
    runs: usize,
    /// How long one measurement takes.
    window: Duration,
    is_quick: bool,
    /// How busy the measured CPU was before anything of ours ran, percent.
    busy_before: f64,
    /// For counters and other small files; in memory.
    scratch: TempDir,
}

/// One of the two sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Ours,
    Peer,
}

/// A group on one of the sides.
enum Fence<'a> {
    Ours(Group<'a>),
    Peer(CpuCgroup),
}

impl Fence<'_> {
    fn take(&self, pid: u32) -> Result<()> {
        match self {
            Self::Ours(group) => group.take(pid),
            Self::Peer(cgroup) => cgroup.take(pid),
        }
    }
}

/// What the runs of both sides gave, metric by metric.
struct Pairs {
    ours: Vec<Series>,
    peer: Vec<Series>,
}

impl Pairs {
    fn ours(&self, metric: usize) -> Series {
        self.ours.get(metric).cloned().unwrap_or_default()
    }

    fn peer(&self, metric: usize) -> Series {
        self.peer.get(metric).cloned().unwrap_or_default()
    }
}

impl Bench {
    /// A group of default weight with a fixed slice (`None`: the policy's own) on that side.
    fn fence(&self, side: Side, name: &str, slice_usec: Option<u32>) -> Result<Fence<'_>> {
        match side {
            Side::Ours => {
                let slice = slice_usec.map_or_else(|| "policy".to_owned(), |usec| usec.to_string());
                Ok(Fence::Ours(self.daemon.group(name, &["--slice", &slice])?))
            }
            Side::Peer => Ok(Fence::Peer(self.controller.group(name)?)),
        }
    }

    /// Measures both sides in turns.
    fn pairs(&self, measure: impl FnMut(Side) -> Result<Vec<f64>>) -> Result<Pairs> {
        in_turns(self.runs, measure)
    }

    /// Waits until what was just changed no longer shows.
    fn settle(&self, nr_members: usize) {
        let least = Duration::from_millis(if self.is_quick { 500 } else { 1_000 });
        // Everybody has had a turn or two by then.
        std::thread::sleep(least.max(Duration::from_millis(20) * u32::try_from(nr_members).unwrap_or(1_000)));
    }

    /// Sleeps for a window; gives how long it really was, in nanoseconds.
    fn pass(&self) -> f64 {
        let started = Instant::now();
        std::thread::sleep(self.window);
        started.elapsed().as_nanos() as f64
    }
}

/// Measures both sides in turns, so many times.
fn in_turns(runs: usize, mut measure: impl FnMut(Side) -> Result<Vec<f64>>) -> Result<Pairs> {
    let mut pairs = Pairs { ours: Vec::new(), peer: Vec::new() };
    for turn in 0..runs {
        let order = if turn % 2 == 0 { [Side::Ours, Side::Peer] } else { [Side::Peer, Side::Ours] };
        for side in order {
            let metrics = measure(side)?;
            let series = if side == Side::Ours { &mut pairs.ours } else { &mut pairs.peer };
            series.resize_with(metrics.len(), Series::default);
            for (series, value) in series.iter_mut().zip(metrics) {
                series.0.push(value);
            }
        }
    }
    Ok(pairs)
}

/// Lets us, and what we start, use the measured CPU too, for a while.
struct AllCpus(CpuSet);

impl AllCpus {
    fn new(measured: usize) -> Result<Self> {
        let us = Pid::from_raw(0);
        let before = sched_getaffinity(us).context("look which CPUs we use")?;
        let mut all = before;
        all.set(measured)?;
        sched_setaffinity(us, &all).context("use all CPUs")?;
        Ok(Self(before))
    }
}

impl Drop for AllCpus {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}

/// Starts a daemon that may use all CPUs, as one on a host would.
fn start_daemon(program: &Path, measured: usize) -> Result<Daemon> {
    let _all = AllCpus::new(measured)?;
    Daemon::start(program)
}

/// The task.
///
/// # Errors
/// If something cannot be measured. A target that is not met is no error: it is in the table.
pub(crate) fn main(args: &BenchArgs) -> Result<()> {
    match &args.what {
        What::Cpu(args) => cpu(args),
        What::Memory(args) => memory::main(args),
        What::Tasks(args) => tasks::main(args),
    }
}

fn cpu(args: &CpuArgs) -> Result<()> {
    let wanted: Vec<_> = cases::ALL
        .iter()
        .filter(|c| args.only.is_empty() || args.only.iter().any(|o| o == c.letter))
        .collect();
    if wanted.is_empty() || args.only.iter().any(|o| cases::ALL.iter().all(|c| c.letter != o)) {
        let known: Vec<_> = cases::ALL.iter().map(|c| format!("{} {}", c.letter, c.what)).collect();
        bail!("--only takes some of:\n  {}", known.join("\n  "));
    }
    let bench = prepare(args)?;
    let mut rows: Vec<Row> = Vec::new();
    for case in wanted {
        eprintln!("({}) {}", case.letter, case.what);
        let started = Instant::now();
        let new = (case.run)(&bench).with_context(|| format!("({}) {}", case.letter, case.what))?;
        eprintln!("{}    {:.0} s", report::table(&new), started.elapsed().as_secs_f64());
        rows.extend(new);
    }
    let text = document(&bench, &rows);
    println!("{text}");
    let is_full = args.only.is_empty() && !args.quick;
    if is_full || args.write {
        report::store("cpu", &text)?;
    }
    Ok(())
}

fn prepare(args: &CpuArgs) -> Result<Bench> {
    let program = program(args.program.as_deref())?;
    peer::clean_up();
    let cpus = allowed_cpus()?;
    let cpu = args.cpu.or(cpus.last().copied()).context("there is no CPU")?;
    if cpus.len() > 1 {
        // What measures keeps away from what is measured.
        let mut others = CpuSet::new();
        for &other in cpus.iter().filter(|&&other| other != cpu) {
            others.set(other)?;
        }
        sched_setaffinity(Pid::from_raw(0), &others).context("leave the measured CPU")?;
    }
    let is_quick = args.quick;
    let busy_before = busy(cpu)?;
    if busy_before > QUIET {
        eprintln!(
            "CPU {cpu} is {busy_before:.0} % busy with other things: what is measured now means little"
        );
    }
    let scratch_base = PathBuf::from("/dev/shm");
    let scratch =
        if scratch_base.is_dir() { tempfile::tempdir_in(scratch_base) } else { tempfile::tempdir() };
    Ok(Bench {
        daemon: start_daemon(&program, cpu)?,
        controller: CpuController::find()?,
        program,
        cpu,
        nr_cpus: cpus.len(),
        runs: args.runs.unwrap_or(if is_quick { 2 } else { 5 }),
        window: Duration::from_secs(if is_quick { 3 } else { 10 }),
        is_quick,
        busy_before,
        scratch: scratch.context("make a directory")?,
    })
}

fn allowed_cpus() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("look which CPUs we may use")?;
    Ok((0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect())
}

/// The binary to measure with: the one that was asked for, or one that is built now.
fn program(asked: Option<&Path>) -> Result<PathBuf> {
    match asked {
        Some(program) => {
            std::fs::canonicalize(program).with_context(|| format!("find {}", program.display()))
        }
        None => build(),
    }
}

/// A CPU that is busier than this many percent disturbs the measurements.
const QUIET: f64 = 3.0;

/// How busy a CPU is just now, percent.
fn busy(cpu: usize) -> Result<f64> {
    let look = || {
        let text = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("cpu{cpu} "))).context("no such CPU")?;
        let ticks: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).take(8).collect();
        let idle = ticks.iter().skip(3).take(2).sum::<u64>();
        anyhow::Ok((ticks.iter().sum::<u64>(), idle))
    };
    let before = look()?;
    std::thread::sleep(Duration::from_secs(1));
    let after = look()?;
    let all = after.0.saturating_sub(before.0).max(1) as f64;
    Ok(100.0 - 100.0 * after.1.saturating_sub(before.1) as f64 / all)
}

fn build() -> Result<PathBuf> {
    let mut command = Command::new(crate::cargo());
    command.args(["build", "--release", "--locked", "-p", "compartment"]).current_dir(crate::root());
    run(&mut command, Duration::from_secs(1_800))?;
    let mut metadata = cargo_metadata::MetadataCommand::new();
    metadata.cargo_path(crate::cargo()).manifest_path(crate::root().join("Cargo.toml")).no_deps();
    let target = metadata.exec().context("find the target directory")?.target_directory;
    Ok(target.join("release/compartment").into())
}

fn disturbance(busy: f64) -> String {
    let word = if busy > QUIET { "**The numbers mean little:** the" } else { "The" };
    format!("{word} measured CPU was {busy:.0} % busy with other things when the run began.")
}

/// The kernel and the kind of CPU.
fn host() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split(['-', '+']).next().unwrap_or_default().trim().to_owned();
    format!("Linux {kernel}, {}", std::env::consts::ARCH)
}

fn document(bench: &Bench, rows: &[Row]) -> String {
    let (asked, met) = report::tally(rows);
    let (host, cpus) = (host(), bench.nr_cpus);
    let version = step::output(Command::new(&bench.program).arg("--version")).unwrap_or_default();
    format!(
        "## CPU\n\n\
         Made by `cargo xtask bench cpu`{}: {} on {host}, {cpus} CPUs, all measured programs on one of them. \
         Numbers are the median of {} paired runs of {} s, with the smallest and the largest in brackets; ours and the peer took turns \
         with the same programs. CPU time is the kernel's account (`/proc/PID/schedstat`). The ratio is taken pair by pair.\n\n\
         {met} of {asked} targets met. {}\n\n{}\n{}",
        if bench.is_quick { " --quick" } else { "" },
        version.trim(),
        bench.runs,
        bench.window.as_secs(),
        disturbance(bench.busy_before),
        report::table(rows),
        cases::NOTES,
    )
}
