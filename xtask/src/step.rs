//! Steps: commands with a time limit, and a summary of how long each took.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long a command has to end after `SIGTERM`.
const GRACE: Duration = Duration::from_secs(5);

/// How a step ended.
#[derive(Debug)]
struct Outcome {
    name: String,
    took: Duration,
    error: Option<String>,
    note: Option<String>,
}

/// The steps of a run, in order. A step that fails does not keep the later ones from being tried.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    outcomes: Vec<Outcome>,
}

impl Steps {
    /// Runs a step. What it gives is a remark for the summary.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> Result<Option<String>>) {
        println!("\n=== {name}");
        let started = Instant::now();
        let result = step();
        let took = started.elapsed();
        let (error, note) = match result {
            Ok(note) => (None, note),
            Err(error) => (Some(format!("{error:#}")), None),
        };
        if let Some(error) = &error {
            println!("=== {name} FAILED: {error}");
        }
        self.outcomes.push(Outcome { name: name.to_owned(), took, error, note });
    }

    /// Prints how each step ended.
    ///
    /// # Errors
    /// If a step has failed.
    pub(crate) fn finish(self) -> Result<()> {
        println!("\n=== summary");
        for o in &self.outcomes {
            let word = if o.error.is_some() { "FAILED" } else { "ok" };
            let note = o.error.as_ref().or(o.note.as_ref()).and_then(|n| n.lines().next());
            let note = note.map(|n| format!("  {n}")).unwrap_or_default();
            println!("{word:<6} {:>7.1} s  {}{note}", o.took.as_secs_f64(), o.name);
        }
        let failed = self.outcomes.iter().filter(|o| o.error.is_some()).count();
        let total: Duration = self.outcomes.iter().map(|o| o.took).sum();
        println!("{} steps, {failed} failed, {:.0} s", self.outcomes.len(), total.as_secs_f64());
        if failed > 0 {
            bail!("{failed} of {} steps failed", self.outcomes.len());
        }
        Ok(())
    }
}

/// Runs a command to its end, in a process group of its own that is killed when the time is over.
///
/// # Errors
/// If it cannot be started, fails, or takes too long.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let status = start(command)?.wait(limit)?;
    check(command, status)
}

/// Like [`run`], and shows each line of its standard output to `see`, after passing it on.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_seen(command: &mut Command, limit: Duration, see: impl FnMut(&str) + Send) -> Result<()> {
    command.stdout(Stdio::piped());
    let mut running = start(command)?;
    let output = running.child.stdout.take().context("no pipe")?;
    let status = std::thread::scope(|scope| {
        let mut see = see;
        // A background process that keeps the pipe open must not keep us: the lines are read aside.
        let (ended, reader_ended) = channel();
        scope.spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Whoever reads ours may be gone, or its disk full: the tests must not fail for that.
                let _ = writeln!(std::io::stdout(), "{line}");
                see(&line);
            }
            let _ = ended.send(());
        });
        let status = running.wait(limit);
        if reader_ended.recv_timeout(GRACE).is_err() {
            running.kill();
        }
        status
    })?;
    check(command, status)
}

/// Runs a command and gives its standard output; nothing is shown.
///
/// # Errors
/// If it cannot be started or fails; its standard error is in the message.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {}", describe(command)))?;
    if !output.status.success() {
        bail!("{} {}: {}", describe(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program can be found in `PATH`, or where system programs are.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(system).any(|dir| dir.join(name).is_file())
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    match (status.success(), status.signal()) {
        (true, _) => Ok(()),
        (false, Some(signal)) => bail!("{} was killed by signal {signal}", describe(command)),
        (false, None) => bail!("{} failed with status {}", describe(command), status.code().unwrap_or(-1)),
    }
}

fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let words = program.file_name().into_iter().chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

struct Running {
    child: Child,
    shown: String,
}

fn start(command: &mut Command) -> Result<Running> {
    let shown = describe(command);
    println!("$ {shown}");
    command.stdin(Stdio::null()).process_group(0);
    let child = command.spawn().with_context(|| format!("start {shown}"))?;
    Ok(Running { child, shown })
}

impl Running {
    fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let (ended, end) = channel();
        let group = Pid::from_raw(self.child.id().cast_signed());
        let watchdog = std::thread::spawn(move || watch(group, limit, &end));
        let status = self.child.wait();
        stop(ended);
        let is_late = watchdog.join().unwrap_or(false);
        let status = status.with_context(|| format!("wait for {}", self.shown))?;
        if is_late {
            bail!("{} took longer than {} s and was killed", self.shown, limit.as_secs());
        }
        Ok(status)
    }

    fn kill(&self) {
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
    }
}

fn stop(ended: Sender<()>) {
    drop(ended);
}

/// Kills the group when the time is over; says whether it was.
fn watch(group: Pid, limit: Duration, end: &std::sync::mpsc::Receiver<()>) -> bool {
    if end.recv_timeout(limit) != Err(RecvTimeoutError::Timeout) {
        return false;
    }
    let _ = killpg(group, Signal::SIGTERM);
    if end.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
        let _ = killpg(group, Signal::SIGKILL);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_that_fails_is_an_error_with_its_status() {
        let result = run(Command::new("sh").args(["-c", "exit 3"]), Duration::from_secs(10));

        assert!(result.is_err_and(|e| e.to_string().contains("status 3")));
    }

    #[test]
    fn command_that_takes_too_long_is_killed() {
        let result = run(Command::new("sleep").arg("60"), Duration::from_millis(50));

        assert!(result.is_err_and(|e| e.to_string().contains("longer than")));
    }

    #[test]
    fn lines_are_seen() {
        let mut lines = Vec::new();

        run_seen(Command::new("printf").arg("a\\nb\\n"), Duration::from_secs(10), |l| {
            lines.push(l.to_owned())
        })
        .expect("printf succeeds");

        assert_eq!(lines, ["a", "b"]);
    }

    #[test]
    fn failed_step_makes_the_run_fail_and_later_ones_are_tried() {
        let mut steps = Steps::default();
        let mut is_tried = false;

        steps.run("bad", || bail!("no"));
        steps.run("good", || {
            is_tried = true;
            Ok(None)
        });

        assert!(is_tried);
        assert!(steps.finish().is_err());
    }
}
