//! The programs that the benches measure: hidden subcommands of this binary.
//!
//! Each pins itself, dies with whoever started it, and runs until it is killed. Those that measure something hear on standard input: a
//! line ends what was recorded so far and prints it, and recording begins anew.

mod pages;
mod sys;
mod tasks;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::{set_pdeathsig, set_timerslack};
use nix::sys::signal::Signal;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use nix::unistd::{Pid, getppid};

/// A program to be measured.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The CPU to run on
    #[arg(long)]
    cpu: Option<usize>,
    /// Ends when this process does, which must have started it
    #[arg(long)]
    parent: i32,
    #[command(subcommand)]
    load: Load,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// Runs all the time; with a file, counts its rounds in there
    SpinCount {
        /// Eight bytes, native order
        #[arg(long)]
        counter: Option<PathBuf>,
    },
    /// Sleeps and works in turns; prints how late it woke each time, in nanoseconds
    Wake {
        #[arg(long, default_value_t = 10_000)]
        sleep_us: u64,
        #[arg(long, default_value_t = 500)]
        work_us: u64,
    },
    /// Runs all the time; prints the lengths of the times in which it did not, in nanoseconds
    Gaps,
    /// Passes a byte to and fro with a child on the same CPU; counts the rounds
    Pingpong {
        #[arg(long)]
        counter: PathBuf,
    },
    /// Starts `true` over and over; counts
    Forks {
        #[arg(long)]
        counter: PathBuf,
    },
    /// Uses memory in some order, and verifies it
    Pages(pages::PagesArgs),
    /// Maps and unmaps
    Maps(pages::MapsArgs),
    /// Forks, executes, waits
    Children(pages::ChildrenArgs),
    /// Takes up memory
    Ballast(pages::BallastArgs),
    /// Publishes and retires guest tasks; prints nanoseconds for each
    Publish(tasks::PublishArgs),
    /// Starts and joins named threads; prints nanoseconds for each
    Threads(tasks::ThreadsArgs),
    /// Shows guest tasks to a daemon; prints when each signal for one came
    Application(tasks::ApplicationArgs),
    /// Waits for SIGTERM; prints when each came
    Sigwait,
    /// Has sleeping children
    Sleepers(tasks::SleepersArgs),
}

/// Gaps below this are interrupts and the like.
const SHORTEST_GAP: u64 = 200_000;

/// Runs it.
///
/// # Errors
/// If the host refuses something.
pub(crate) fn run(args: &LoadArgs) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("be tied to the parent")?;
    if getppid() != Pid::from_raw(args.parent) {
        return Ok(());
    }
    if let Some(cpu) = args.cpu {
        let mut set = CpuSet::new();
        set.set(cpu).context("choose a CPU")?;
        sched_setaffinity(Pid::from_raw(0), &set).context("be pinned to a CPU")?;
    }
    match &args.load {
        Load::SpinCount { counter: None } => spin(),
        Load::SpinCount { counter: Some(path) } => count(path),
        Load::Wake { sleep_us, work_us } => wake(sleep_us * 1_000, work_us * 1_000),
        Load::Gaps => gaps(),
        Load::Pingpong { counter } => pingpong(counter),
        Load::Forks { counter } => forks(counter),
        Load::Pages(args) => pages::pages(args),
        Load::Maps(args) => pages::maps(args),
        Load::Children(args) => pages::children(args),
        Load::Ballast(args) => pages::ballast(args),
        Load::Publish(args) => tasks::publish(args),
        Load::Threads(args) => tasks::threads(args),
        Load::Application(args) => tasks::application(args),
        Load::Sigwait => tasks::sigwait(),
        Load::Sleepers(args) => tasks::sleepers(args),
    }
}

fn spin() -> ! {
    let mut n = 0u64;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

struct Counter {
    file: File,
    n: u64,
}

impl Counter {
    fn new(path: &Path) -> Result<Self> {
        let file =
            File::options().write(true).open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { file, n: 0 })
    }

    fn step(&mut self) -> Result<()> {
        self.n += 1;
        self.file.write_all_at(&self.n.to_ne_bytes(), 0).context("count")
    }
}

/// One round walks through some memory, so that a cold cache shows.
fn count(path: &Path) -> Result<()> {
    let mut counter = Counter::new(path)?;
    let mut memory = vec![1u64; 16 * 1024];
    loop {
        for _ in 0..4 {
            for cell in &mut memory {
                *cell = std::hint::black_box(cell.wrapping_mul(3));
            }
        }
        counter.step()?;
    }
}

fn now() -> Result<u64> {
    let t = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    Ok(t.tv_sec().cast_unsigned() * 1_000_000_000 + t.tv_nsec().cast_unsigned())
}

/// Whether somebody asks for what was recorded.
fn is_asked() -> Result<bool> {
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::ZERO).context("look for a line")? == 0 {
        return Ok(false);
    }
    let mut byte = [0u8];
    Ok(stdin.lock().read(&mut byte).context("read a line")? > 0)
}

fn tell(values: &mut Vec<u64>) -> Result<()> {
    let mut text = String::with_capacity(values.len() * 8);
    for value in values.drain(..) {
        text += &value.to_string();
        text.push(' ');
    }
    text.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn wake(sleep_ns: u64, work_ns: u64) -> Result<()> {
    set_timerslack(1).context("have an exact timer")?;
    let mut late = Vec::with_capacity(1 << 16);
    loop {
        let at = now()? + sleep_ns;
        let until = TimeSpec::from_duration(Duration::from_nanos(at));
        clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until)
            .context("sleep")?;
        let woken = now()?;
        late.push(woken.saturating_sub(at));
        while now()? < woken + work_ns {}
        if is_asked()? {
            tell(&mut late)?;
        }
    }
}

fn gaps() -> Result<()> {
    let mut gaps = Vec::with_capacity(1 << 16);
    let mut last = now()?;
    let mut looked = last;
    loop {
        let at = now()?;
        if at - last >= SHORTEST_GAP {
            gaps.push(at - last);
        }
        last = at;
        if at - looked > 1_000_000 {
            looked = at;
            if is_asked()? {
                tell(&mut gaps)?;
                last = now()?;
            }
        }
    }
}

fn pingpong(path: &Path) -> Result<()> {
    let mut counter = Counter::new(path)?;
    // `cat` on both ends of a pair of pipes is the simplest partner that needs no code here.
    let mut child = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("start cat")?;
    let (mut to, mut from) =
        (child.stdin.take().context("no pipe")?, child.stdout.take().context("no pipe")?);
    let mut byte = [7u8];
    loop {
        to.write_all(&byte)?;
        from.read_exact(&mut byte)?;
        counter.step()?;
    }
}

fn forks(path: &Path) -> Result<()> {
    let mut counter = Counter::new(path)?;
    loop {
        std::process::Command::new("true").status().context("start true")?;
        counter.step()?;
    }
}
