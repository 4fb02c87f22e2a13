//! Loads that show guest tasks, or do what is compared with that.

use std::fs::File;
use std::hint::black_box;
use std::io::{Write as _, stdout};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use guest_task::{Accepts, Options, Registry, Status, Task, TaskSpec, TaskState, thread_cpu_time_ns};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::pause;

use super::now;

/// Publishes, changes and retires.
#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// How many on each thread
    #[arg(long)]
    ops: u64,
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Beside a thread that copies the table without a pause
    #[arg(long)]
    reader: bool,
}

pub(super) fn publish(args: &PublishArgs) -> Result<()> {
    let nowhere = std::env::temp_dir().join("there-is-no-daemon.sock");
    let registry = Registry::connect(Options::default().socket(nowhere))?;
    // Warm: slots and pages are there.
    publish_all(&registry, args.ops / 10 + 1);
    let table = table()?;
    let is_over = AtomicBool::new(false);
    let used_ns = thread::scope(|scope| {
        if args.reader {
            scope.spawn(|| read_on(&table, &is_over));
        }
        let started = (0..args.threads).map(|_| scope.spawn(|| publish_all(&registry, args.ops)));
        let started: Vec<_> = started.collect();
        let used = started.into_iter().filter_map(|thread| thread.join().ok()).sum::<u64>();
        is_over.store(true, Ordering::Relaxed);
        used
    });
    tell(used_ns, args.ops * args.threads);
    Ok(())
}

/// Gives the CPU time that it took.
fn publish_all(registry: &Registry, ops: u64) -> u64 {
    let began_ns = thread_cpu_time_ns();
    let spec = TaskSpec::new("GET /api/v1/users").cmdline("GET /api/v1/users/4711 HTTP/1.1");
    let spec = spec.owner("10.0.0.7:52344").accepts(Accepts::NONE.signal(15));
    for n in 0..ops {
        let task = registry.publish(black_box(spec));
        task.set_state(TaskState::Waiting);
        task.set_cpu_time_ns(n);
    }
    thread_cpu_time_ns() - began_ns
}

/// The first segment of our own table.
fn table() -> Result<File> {
    let mut fds = std::fs::read_dir("/proc/self/fd").context("list our descriptors")?.flatten();
    let is_table = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("guest-tasks"))
    };
    let path = fds.by_ref().map(|fd| fd.path()).find(is_table).context("find our table")?;
    File::open(path).context("open our table")
}

fn read_on(table: &File, is_over: &AtomicBool) {
    let mut copy = vec![0u8; 64 * guest_task::layout::SLOT_BYTES];
    while !is_over.load(Ordering::Relaxed) {
        let _ = table.read_exact_at(&mut copy, 0);
        black_box(&copy);
    }
}

/// Picoseconds for each, so that a number without a point says it.
fn tell(took_ns: u64, ops: u64) {
    println!("{}", took_ns * 1_000 / ops);
}

/// Starts and joins threads.
#[derive(Debug, Args)]
pub(super) struct ThreadsArgs {
    #[arg(long)]
    ops: u64,
}

pub(super) fn threads(args: &ThreadsArgs) -> Result<()> {
    let began = Instant::now();
    for n in 0..args.ops {
        let thread = thread::Builder::new().name("GET /api/v1/us".into()).spawn(move || black_box(n));
        if thread.context("start a thread")?.join().is_err() {
            bail!("a thread panicked");
        }
    }
    tell(began.elapsed().as_nanos() as u64, args.ops);
    Ok(())
}

/// Shows tasks to a daemon.
#[derive(Debug, Args)]
pub(super) struct ApplicationArgs {
    /// The daemon's
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    tasks: usize,
}

pub(super) fn application(args: &ApplicationArgs) -> Result<()> {
    let options = Options::default().socket(&args.socket).on_event(|_| {
        // Whoever reads them is gone when this fails, and ends us.
        let at = now().unwrap_or_default();
        let _ = writeln!(stdout(), "{at}");
    });
    let registry = Registry::connect(options)?;
    if registry.wait_answer(Duration::from_secs(20)) != Status::Connected {
        bail!("the daemon does not take the table: {:?}", registry.status());
    }
    let spec = TaskSpec::new("job").cmdline("job\0--number\0one").owner("somebody").accepts(Accepts::ALL);
    let _tasks: Vec<Task> = (0..args.tasks).map(|_| registry.publish(spec)).collect();
    println!("{}", args.tasks);
    loop {
        pause();
    }
}

pub(super) fn sigwait() -> Result<()> {
    let term = SigSet::from(Signal::SIGTERM);
    term.thread_block().context("block SIGTERM")?;
    println!("0");
    loop {
        term.wait().context("wait for SIGTERM")?;
        println!("{}", now()?);
    }
}

/// Has children.
#[derive(Debug, Args)]
pub(super) struct SleepersArgs {
    #[arg(long)]
    nr: usize,
}

/// They end with us, whose standard input is theirs.
pub(super) fn sleepers(args: &SleepersArgs) -> Result<()> {
    let mut children = Vec::new();
    for _ in 0..args.nr {
        let child = Command::new("cat").stdin(Stdio::inherit()).stdout(Stdio::null()).spawn();
        children.push(child.context("start a sleeper")?);
    }
    println!("{}", args.nr);
    for child in &mut children {
        child.wait().context("wait for a sleeper")?;
    }
    Ok(())
}
