//! `demo`: the session of the README on real processes. What is shown after a `$` is what is run.

mod measure;

use std::io::{self, Read as _, Write};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use self::measure::{Shares, Verdict, Watch};
use crate::embedded::{Embedded, Options};
use crate::exit::{CliError, Exit};
use crate::gate::Launch;
use crate::output;
use crate::signals::Signals;

/// Show a group at work: one program outside, two inside, one CPU.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How long to measure
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=600))]
    seconds: u32,
    /// The group's time slice in microseconds; short, so that the time measured holds many
    #[arg(long, value_name = "USEC", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1000..=1_000_000))]
    slice: u32,
    /// The driver's parts to use, like "park=stop envelope=none"
    #[arg(long, value_name = "PARTS", hide = true)]
    force_mode: Option<String>,
    /// Print the verdict alone, as JSON
    #[arg(long)]
    json: bool,
}

const LOOP: &str = "while :; do :; done";
const BEFORE: u32 = 2;
const SETTLE: Duration = Duration::from_secs(1);
const HOLD_TIMEOUT: Duration = Duration::from_secs(10);

/// A program of the demo, killed when dropped.
#[derive(Debug)]
struct Program(Child);

impl Program {
    fn start(launch: Launch) -> Result<Self, CliError> {
        Ok(Self(launch.in_background().hold()?.open()?))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl DemoArgs {
    /// Runs it and judges.
    pub(crate) fn run(self, out: &mut dyn Write) -> Result<Exit, CliError> {
        let mut nowhere = io::sink();
        let verdict = self.play(if self.json { &mut nowhere } else { out })?;
        if self.json {
            output::json(out, &verdict.to_json())?;
        }
        Ok(if verdict.is_pass() { Exit::Ok } else { Exit::Failed })
    }

    fn play(&self, out: &mut dyn Write) -> Result<Verdict, CliError> {
        let signals = Signals::block()?;
        let cpu = measure::quietest_cpu(&signals)?;
        let daemon =
            Embedded::start(&signals, &Options { is_verbose: false, force_mode: self.force_mode.clone() })?;
        let root = daemon.tree().root();
        say(out, &format!("$ compartmentd --mount {} &      # for this demo only", root.display()))?;
        say(out, &format!("$ cd {}", root.display()))?;

        // Dropped before the daemon: nothing that we started outlives us.
        let busy = || Program::start(Launch::new(["sh", "-c", LOOP]).on_cpu(cpu));
        let loops = [busy()?, busy()?, busy()?];
        for (name, program) in measure::NAMES.iter().zip(&loops) {
            say(out, &format!("$ taskset -c {cpu} sh -c '{LOOP}' &      # {name}: {}", program.pid()))?;
        }
        let pids = [loops[0].pid(), loops[1].pid(), loops[2].pid()];
        say(out, "\nThree programs, one CPU, no group: a third each.")?;
        rows(out, &signals, pids, BEFORE)?;

        say(out, "\n$ cat schedulers/guest_o1_scheduler &")?;
        let (_holder, group) = hold_group(out, root, &signals)?;
        step(out, root, &format!("echo {} > sched-groups/{group}/slice_usec", self.slice))?;
        for pid in &pids[1..] {
            step(out, root, &format!("mv sched-groups/0/{pid} sched-groups/{group}/"))?;
        }
        let mode =
            std::fs::read_to_string(root.join(format!("sched-groups/{group}/mode"))).unwrap_or_default();
        say(out, &format!("$ cat sched-groups/{group}/mode\n{}", mode.trim_end()))?;
        signals.sleep(SETTLE)?;

        say(
            out,
            &format!(
                "\nB and C are one group now, which counts like one program: A {}, B {}, C {}.",
                50, 25, 25
            ),
        )?;
        let shares = rows(out, &signals, pids, self.seconds)?;
        let verdict = Verdict { shares, cpu, mode: mode.trim_end().to_owned() };
        verdict.write(out)?;
        out.flush()?;
        Ok(verdict)
    }
}

fn say(out: &mut dyn Write, text: &str) -> io::Result<()> {
    writeln!(out, "{text}")?;
    out.flush()
}

/// Shows a command, and runs it in the tree's directory.
fn step(out: &mut dyn Write, root: &Path, text: &str) -> Result<(), CliError> {
    say(out, &format!("$ {text}"))?;
    let status = Command::new("sh").args(["-c", text]).current_dir(root).stdout(Stdio::null()).status();
    if status.map_err(CliError::os("run sh"))?.success() {
        return Ok(());
    }
    let log = std::fs::read_to_string(root.join("error_log")).unwrap_or_default();
    Err(CliError::Failed(format!("`{text}` failed; error_log: {}", log.lines().last().unwrap_or("empty"))))
}

/// Reads `schedulers/guest_o1_scheduler` with a real `cat`, and gives it and the number of the group that it holds.
fn hold_group(out: &mut dyn Write, root: &Path, signals: &Signals) -> Result<(Program, u32), CliError> {
    let file = root.join("schedulers/guest_o1_scheduler");
    let launch = Launch::new(["cat".into(), file.into_os_string()]).stdout(Stdio::piped());
    let mut cat = Program::start(launch)?;
    let Some(mut pipe) = cat.0.stdout.take() else {
        return Err(CliError::Failed("cat has no output".into()));
    };
    let deadline = Instant::now() + HOLD_TIMEOUT;
    let mut text = Vec::new();
    while !text.contains(&b'\n') {
        signals.sleep(Duration::ZERO)?;
        if Instant::now() > deadline {
            return Err(CliError::Failed("the group was not made in time".into()));
        }
        let timeout = PollTimeout::from(100u8);
        if poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout)
            .map_err(CliError::nix("wait for cat"))?
            == 0
        {
            continue;
        }
        let mut buf = [0u8; 256];
        match pipe.read(&mut buf).map_err(CliError::os("read from cat"))? {
            0 => return Err(CliError::Failed("cat ended: no group was made".into())),
            len => text.extend_from_slice(&buf[..len]),
        }
    }
    let line = String::from_utf8_lossy(&text);
    say(out, line.trim_end())?;
    let group = measure::created_group(&line).ok_or_else(|| {
        CliError::Failed(format!("expected \"Created sched_group …\", got {:?}", line.trim_end()))
    })?;
    // Its pipe stays open as long as it: it must not die of writing into a closed one.
    cat.0.stdout = Some(pipe);
    Ok((cat, group))
}

/// Shows the shares of each second; gives those of the whole time.
fn rows(out: &mut dyn Write, signals: &Signals, pids: [u32; 3], seconds: u32) -> Result<Shares, CliError> {
    let start = Watch::start(pids)?;
    let mut last = start.clone();
    for second in 1..=seconds {
        signals.sleep(
            (start.at() + Duration::from_secs(second.into())).saturating_duration_since(Instant::now()),
        )?;
        let now = Watch::start(pids)?;
        let shares = now.since(&last);
        say(out, &shares.row(second))?;
        last = now;
    }
    Ok(last.since(&start))
}

impl Verdict {
    fn to_json(&self) -> serde_json::Value {
        let rows = self
            .rows()
            .map(|row| json!({"name": row.name, "asked": row.asked, "got": row.got, "off": row.off()}));
        json!({
            "pass": self.is_pass(),
            "tolerance_points": measure::TOLERANCE,
            "seconds": self.shares.seconds(),
            "cpu": self.cpu,
            "cpu_used_pct": self.shares.of_cpu(),
            "mode": self.mode,
            "shares": rows.collect::<Vec<_>>(),
        })
    }
}
