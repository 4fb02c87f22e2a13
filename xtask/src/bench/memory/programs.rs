//! The programs under measurement: held until they are in their group, then let go and heard.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::step;

/// Builds a list of records and reads it; checks each. Records have text in common, as those of real programs have.
const PYTHON: &str = "\
import random, sys
r = random.Random(7)
common = 'state=active group=users host=example quota=none shell=/bin/sh flags=0000 comment=' + 'the quick brown fox ' * 12
noise = ['%032x' % r.getrandbits(128) for _ in range(4096)]
size = 8 + 32 * 4 + len(common)
n = int(sys.argv[1]) * 2**20 // (size + 57)
def record(i):
    return '%08d' % i + noise[i * 7919 % 4096] + noise[i * 104729 % 4096] + noise[i * 31 % 4096] + noise[i % 4096] + common
records = [record(i) for i in range(n)]
total = 0
for i, x in enumerate(records):
    if x != record(i):
        sys.exit('WRONG: record %d' % i)
    total += ord(x[8 + i % 128])
print('records=%d total=%d' % (n, total))
";

/// Who takes longer hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// What is run.
#[derive(Clone, Debug)]
pub(super) struct Program(Vec<String>);

impl Program {
    /// A load of ours.
    pub(super) fn load(args: &str) -> Result<Self> {
        let own = std::env::current_exe().context("find the own binary")?;
        let own = own.to_str().context("a path of ours is text")?.to_owned();
        let parent = std::process::id().to_string();
        let mut words: Vec<String> = vec![own, "load".into(), "--parent".into(), parent];
        words.extend(args.split_whitespace().map(str::to_owned));
        Ok(Self(words))
    }

    /// python3 with so many MiB of records.
    pub(super) fn python(mib: u64) -> Result<Self> {
        // The program itself: `python3` may be a script that starts it.
        let own = step::output(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]))?;
        Ok(Self(vec![own.trim().to_owned(), "-c".into(), PYTHON.into(), mib.to_string()]))
    }
}

/// What a program said and took.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    words: BTreeMap<String, u64>,
    /// From letting it go to its end.
    pub(super) took: Duration,
}

impl Outcome {
    pub(super) fn get(&self, key: &str) -> Result<f64> {
        self.words.get(key).map(|&n| n as f64).with_context(|| format!("the load does not tell {key}"))
    }

    /// Seconds.
    pub(super) fn seconds(&self) -> f64 {
        self.took.as_secs_f64()
    }
}

/// A program that waits to be let go; killed with its children when dropped.
#[derive(Debug)]
pub(super) struct Held {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    begun: Instant,
}

impl Held {
    pub(super) fn start(program: &Program) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sh", "-c", "read _ && exec \"$0\" \"$@\""]);
        command.args(&program.0).process_group(0);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {:?}", program.0.first()))?;
        let input = child.stdin.take().context("no pipe")?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Self { child, input, output, begun: Instant::now() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go: the first time from its start, later where it waits.
    pub(super) fn go(&mut self) -> Result<()> {
        self.begun = Instant::now();
        self.input.write_all(b"\n").context("let a load go")
    }

    /// Waits for a line that it prints.
    pub(super) fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.watched(|held| held.output.read_line(&mut line))?;
        ensure!(!line.is_empty(), "a load has ended before its time: {:?}", self.child.wait());
        Ok(line.trim_end().to_owned())
    }

    /// Waits for its end, which must be a good one.
    pub(super) fn end(mut self) -> Result<Outcome> {
        let mut text = String::new();
        self.watched(|held| held.output.read_to_string(&mut text))?;
        let status = self.child.wait().context("wait for a load")?;
        let took = self.begun.elapsed();
        ensure!(status.success(), "a load failed, {status}: {text}");
        Ok(Outcome { words: parse(&text), took })
    }

    /// Hears; a load that says nothing for too long is killed, which ends the hearing.
    fn watched(&mut self, hear: impl FnOnce(&mut Self) -> std::io::Result<usize>) -> Result<()> {
        let group = Pid::from_raw(self.child.id().cast_signed());
        let (done, is_done) = channel::<()>();
        let watchdog = std::thread::spawn(move || {
            let is_late = is_done.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
            if is_late {
                let _ = killpg(group, Signal::SIGKILL);
            }
            is_late
        });
        let heard = hear(self);
        drop(done);
        let is_late = watchdog.join().unwrap_or(false);
        ensure!(!is_late, "a load hung for {} s and was killed", LIMIT.as_secs());
        heard.context("hear from a load").map(drop)
    }
}

fn parse(text: &str) -> BTreeMap<String, u64> {
    let words = text.split_whitespace().filter_map(|w| w.split_once('='));
    words.filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?))).collect()
}

impl Drop for Held {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_waits_until_it_is_let_go_and_is_heard() {
        let program = Program(["sh", "-c", "echo one; read _; echo n=7 m=x"].map(str::to_owned).to_vec());
        let mut held = Held::start(&program).expect("started");

        held.go().expect("going");
        assert_eq!(held.hear().expect("a line"), "one");
        held.go().expect("going on");
        let outcome = held.end().expect("a good end");
        assert_eq!(outcome.get("n").expect("told"), 7.0);
        assert!(outcome.get("m").is_err());
    }

    #[test]
    fn program_that_fails_is_an_error() {
        let program = Program(["sh", "-c", "exit 3"].map(str::to_owned).to_vec());
        let mut held = Held::start(&program).expect("started");

        held.go().expect("going");
        assert!(held.end().is_err());
    }
}
