//! `cargo xtask bench tasks`: the rows of the targets on guest tasks and on the tree itself, each with its peer beside it in the same run.
//!
//! - [`publish`]: what the application pays. - [`signals`]: the way of a signal. - [`listing`]: many tasks.
//! - [`attributes`]: a file of the tree. - [`entered`]: stock programs that look at the merged `/proc`.

mod attributes;
mod entered;
mod listing;
mod publish;
mod signals;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::ours::Daemon;
use super::procs::Load;
use super::report::{self, Row};
use super::{Pairs, Side, in_turns};
use crate::step;

#[derive(Debug, Args)]
pub(super) struct TasksArgs {
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
    const fn sized(&self, quick: usize, full: usize) -> usize {
        if self.is_quick { quick } else { full }
    }

    /// An application with so many tasks, all of which the daemon knows.
    fn application(&self, nr_tasks: usize) -> Result<Application> {
        let socket = guest_task::socket_beside(&self.daemon.tree());
        let socket = socket.to_str().context("a path of ours is text")?;
        let mut load = Load::telling(&["application", "--socket", socket, "--tasks", &nr_tasks.to_string()])?;
        load.hear()?;
        let group = self.daemon.tree().join("sched-groups").join(load.pid().to_string());
        let deadline = Instant::now() + Duration::from_secs(60);
        // Segments of the table are handed over by another thread.
        let is_known = || {
            let text = fs::read_to_string(group.join("tasks.stat")).unwrap_or_default();
            text.lines().next() == Some(&format!("nr_tasks {nr_tasks}"))
        };
        while !is_known() {
            if Instant::now() > deadline {
                bail!("the daemon does not show {nr_tasks} tasks");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Application { load, group })
    }
}

/// An application and its group in the tree.
struct Application {
    load: Load,
    group: PathBuf,
}

impl Application {
    /// The directory of one of its tasks.
    fn task(&self) -> Result<PathBuf> {
        let mut entries = fs::read_dir(&self.group).context("list the tasks")?.flatten();
        let is_task = |name: &str| name.parse::<i32>().is_ok();
        let task = entries.find(|entry| entry.file_name().to_str().is_some_and(is_task));
        Ok(task.context("there is no task")?.path())
    }
}

struct Case {
    letter: &'static str,
    what: &'static str,
    run: fn(&Bench) -> Result<Vec<Row>>,
}

const ALL: &[Case] = &[
    Case { letter: "a", what: "publish, change, retire", run: publish::all },
    Case { letter: "b", what: "from kill to the owner's handler", run: signals::all },
    Case { letter: "c", what: "listings", run: listing::all },
    Case { letter: "d", what: "attributes of the tree", run: attributes::all },
    Case { letter: "e", what: "ps and psutil in an entered shell", run: entered::all },
];

const NOTES: &str = "\
(a) is a task with name, command line, owner, mask and time that is published, changed twice and retired; the peer of the first row is a named thread that is started and joined, of the others the same without a reader, \
which is a thread that copies the table without a pause. CPU time, so that other programs do not count; M/s is what the threads do together, each with a CPU of its own. \
(b) is the time from before the write into the task's `signal` to the application's handler, in another process; the peer is a process that waits for a real SIGTERM by `sigwait`. \
(c) sets as many guest tasks beside as many sleeping processes: *names* lists the group's directory, and `/proc`; *all* reads the file `tasks`, and `stat` and `cmdline` of each process. \
(d) opens, reads and closes; *same CPU* has all threads of the daemon on the CPU of who reads. The peers are a file of a cpu cgroup, and of lxcfs, which is a FUSE file system too. \
(e) times the program in a shell that is entered, and outside, with 1 000 sleeping processes.\n";

/// The task.
///
/// # Errors
/// If something cannot be measured. A target that is not met is no error: it is in the table.
pub(super) fn main(args: &TasksArgs) -> Result<()> {
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
        match (case.run)(&bench) {
            Ok(new) => {
                eprintln!("{}    {:.0} s", report::table(&new), started.elapsed().as_secs_f64());
                rows.extend(new);
            }
            // The other cases may do.
            Err(error) => {
                eprintln!("({}) {} FAILED: {error:#}", case.letter, case.what);
                failed.push(case.letter);
            }
        }
    }
    let text = document(&bench, &rows);
    println!("{text}");
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    if args.write || (args.only.is_empty() && !args.quick) {
        report::store("tasks", &text)?;
    }
    Ok(())
}

fn prepare(args: &TasksArgs) -> Result<Bench> {
    let program = super::program(args.program.as_deref())?;
    let mut busy_before = 0f64;
    for cpu in super::allowed_cpus()? {
        busy_before = busy_before.max(super::busy(cpu)?);
    }
    if busy_before > super::QUIET {
        eprintln!("a CPU is {busy_before:.0} % busy with other things: what is measured now means little");
    }
    Ok(Bench {
        daemon: Daemon::start(&program)?,
        program,
        runs: args.runs.unwrap_or(if args.quick { 2 } else { 5 }),
        is_quick: args.quick,
        busy_before,
    })
}

fn document(bench: &Bench, rows: &[Row]) -> String {
    let (asked, met) = report::tally(rows);
    let version = step::output(Command::new(&bench.program).arg("--version")).unwrap_or_default();
    format!(
        "## Guest tasks\n\n\
         Made by `cargo xtask bench tasks`{}: {} on {}, {} CPUs. \
         Numbers are the median of {} paired runs, with the smallest and the largest in brackets; ours and the peer took turns. \
         The ratio is taken pair by pair.\n\n\
         {met} of {asked} targets met. {}\n\n{}\n{NOTES}",
        if bench.is_quick { " --quick" } else { "" },
        version.trim(),
        super::host(),
        super::allowed_cpus().map_or(0, |cpus| cpus.len()),
        bench.runs,
        super::disturbance(bench.busy_before),
        report::table(rows),
    )
}

/// The time of something, in microseconds.
fn timed<T>(run: impl FnOnce() -> Result<T>) -> Result<f64> {
    let began = Instant::now();
    run()?;
    Ok(began.elapsed().as_secs_f64() * 1e6)
}

/// The median of many, in microseconds.
fn median_of(nr: usize, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::with_capacity(nr);
    for _ in 0..nr {
        let began = Instant::now();
        run()?;
        times.push(began.elapsed().as_nanos() as u64);
    }
    Ok(super::stats::percentile(&mut times, 0.5) as f64 / 1e3)
}
