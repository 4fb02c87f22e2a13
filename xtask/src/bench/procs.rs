//! Programs under measurement, and the kernel's accounting of them.

use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// A process's own record of its CPU time, held open.
#[derive(Debug)]
pub(super) struct Clock(File);

impl Clock {
    pub(super) fn open(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/schedstat");
        Ok(Self(File::open(&path).with_context(|| format!("open {path}"))?))
    }

    /// Nanoseconds on a CPU.
    pub(super) fn read(&self) -> Result<u64> {
        let mut buf = [0u8; 96];
        let len = self.0.read_at(&mut buf, 0).context("read schedstat: the process has ended")?;
        let text = std::str::from_utf8(&buf[..len]).context("schedstat is text")?;
        text.split_whitespace().next().and_then(|n| n.parse().ok()).context("schedstat begins with a number")
    }
}

/// CPU time of a process with all its threads, nanoseconds; 0 if it is gone.
pub(super) fn cpu_of_all_threads(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Context switches of a process with all its threads: each is preceded by a wake-up, or by being preempted.
pub(super) fn switches_of_all_threads(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok())
        .flat_map(|text| {
            let numbers = text.lines().filter(|l| l.starts_with("voluntary_ctxt_switches:"));
            numbers.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).collect::<Vec<_>>()
        })
        .sum()
}

/// A load of ours, killed when dropped.
#[derive(Debug)]
pub(super) struct Load {
    child: Child,
    clock: Clock,
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
    counter: Option<Counter>,
}

/// Where a load counts its rounds.
#[derive(Debug)]
struct Counter {
    path: PathBuf,
    file: File,
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Load {
    /// A busy loop.
    pub(super) fn spin(cpu: usize) -> Result<Self> {
        Self::start(Some(cpu), &["spin-count"], None, false)
    }

    /// A busy loop (`spin-count`), pipe (`pingpong`) or fork (`forks`) load that counts.
    pub(super) fn counting(cpu: usize, kind: &str, dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        std::fs::write(&path, 0u64.to_ne_bytes()).with_context(|| format!("write {}", path.display()))?;
        let file = File::open(&path)?;
        let shown = path.to_str().context("a path of ours is text")?.to_owned();
        Self::start(Some(cpu), &[kind, "--counter", &shown], Some(Counter { path, file }), false)
    }

    /// A load that sleeps 10 ms and works 0.5 ms.
    pub(super) fn wake(cpu: usize) -> Result<Self> {
        Self::start(Some(cpu), &["wake"], None, true)
    }

    /// A busy loop that notes when it did not run.
    pub(super) fn gaps(cpu: usize) -> Result<Self> {
        Self::start(Some(cpu), &["gaps"], None, true)
    }

    /// Something else, which tells of what it does line by line.
    pub(super) fn telling(args: &[&str]) -> Result<Self> {
        Self::start(None, args, None, true)
    }

    fn start(cpu: Option<usize>, args: &[&str], counter: Option<Counter>, is_asked: bool) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("find the own binary")?);
        command.arg("load").args(["--parent", &std::process::id().to_string()]);
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        command.args(args);
        if is_asked {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        } else {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
        let mut child = command.spawn().context("start a load")?;
        let clock = Clock::open(child.id())?;
        let (input, output) = (child.stdin.take(), child.stdout.take().map(BufReader::new));
        Ok(Self { child, clock, input, output, counter })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Nanoseconds on a CPU.
    pub(super) fn cpu(&self) -> Result<u64> {
        self.clock.read()
    }

    /// Rounds so far.
    pub(super) fn count(&self) -> Result<u64> {
        let counter = self.counter.as_ref().context("this load does not count")?;
        let mut buf = [0u8; 8];
        counter.file.read_exact_at(&mut buf, 0).context("read a counter")?;
        Ok(u64::from_ne_bytes(buf))
    }

    /// What it recorded since it was asked last.
    pub(super) fn ask(&mut self) -> Result<Vec<u64>> {
        let (Some(input), Some(output)) = (&mut self.input, &mut self.output) else {
            bail!("this load records nothing")
        };
        input.write_all(b"\n").context("ask a load")?;
        numbers(output)
    }

    /// The numbers of the next line that it tells by itself.
    pub(super) fn hear(&mut self) -> Result<Vec<u64>> {
        numbers(self.output.as_mut().context("this load tells nothing")?)
    }
}

fn numbers(output: &mut impl BufRead) -> Result<Vec<u64>> {
    let mut line = String::new();
    if output.read_line(&mut line).context("hear from a load")? == 0 {
        bail!("a load has ended");
    }
    Ok(line.split_whitespace().filter_map(|n| n.parse().ok()).collect())
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sums the CPU time of loads.
pub(super) fn cpu_of(loads: &[Load]) -> Result<u64> {
    loads.iter().map(Load::cpu).sum()
}
