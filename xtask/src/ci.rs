//! `cargo xtask ci`: everything that must hold before a change is taken. Each step is a command that a person can run.

use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use nix::sys::statvfs::statvfs;

use crate::setup::SetupArgs;
use crate::step::{Steps, run, run_seen};
use crate::{advisories, cargo, leftovers, licences, proofs, purity, root, setup};

/// Set for the tests: then one that cannot run here panics instead of skipping itself.
const STRICT: &str = "COMPARTMENTS_CI";
/// How a test that skips itself says so, in whatever case.
const SKIPPED: &str = "skipped:";

/// What a run from an empty target directory writes (4 GiB), and what its tests put into swap files.
const NEEDED_MIB: u64 = 6 << 10;

/// Check everything.
#[derive(Debug, Args)]
pub(crate) struct CiArgs {
    /// Let tests that cannot run here skip themselves
    #[arg(long)]
    lenient: bool,
    /// Install nothing
    #[arg(long)]
    no_setup: bool,
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// Runs all steps.
///
/// # Errors
/// If one has failed.
pub(crate) fn run_ci(args: &CiArgs) -> Result<()> {
    let before = leftovers::look();
    let mut steps = Steps::default();
    steps.run("room", room);
    steps.run("setup", || setup::run_setup(&SetupArgs { vm: false, dry_run: args.no_setup }));
    steps.run("format", || run_cargo(&["fmt", "--all", "--check"], minutes(2)));
    steps.run("lints", || {
        run_cargo(
            &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"],
            minutes(15),
        )?;
        // What only those have who ask for it.
        let features = ["clippy", "--locked", "-p", "guest-task", "--all-features", "--all-targets", "--"];
        run_cargo(&[&features[..], &["-D", "warnings"]].concat(), minutes(10))
    });
    steps.run("pure core", || {
        let mut checked = Vec::new();
        for name in ["guest-sched", "guest-mm"] {
            run_cargo(&["check", "--locked", "-p", name, "--no-default-features"], minutes(5))?;
            checked.extend(purity::check(&root().join(name))?.map(|files| format!("{name} {files}")));
        }
        Ok(Some(checked.join(", ")))
    });
    steps.run("tests", || tests(args.lenient));
    steps.run("docs", || {
        let mut doc = cargo_command(&["doc", "--locked", "--workspace", "--no-deps"]);
        run(doc.env("RUSTDOCFLAGS", "-D warnings"), minutes(10))?;
        Ok(None)
    });
    // Only whether they still fit the crates: running them is `cargo xtask fuzz`.
    steps.run("fuzz targets", || {
        run_cargo(&["check", "--locked", "--manifest-path", "fuzz/Cargo.toml"], minutes(10))
    });
    steps.run("specification", || proofs::check(&root()));
    steps.run("licences", licences::check);
    steps.run("advisories", advisories::check);
    steps.run("leftovers", || leftovers::check_against(&before));
    steps.finish()
}

/// Fails where the disk is too full for the run: half-way, that shows as tests that fail for no reason that they tell.
fn room() -> Result<Option<String>> {
    let disk = statvfs(&root())?;
    let free_mib = disk.blocks_available() * disk.fragment_size() / (1 << 20);
    if free_mib < NEEDED_MIB {
        bail!("{free_mib} MiB are free in {}, {NEEDED_MIB} are needed", root().display());
    }
    Ok(Some(format!("{free_mib} MiB free")))
}

fn cargo_command(args: &[&str]) -> Command {
    let mut command = Command::new(cargo());
    command.args(args).current_dir(root());
    command
}

fn run_cargo(args: &[&str], limit: Duration) -> Result<Option<String>> {
    run(&mut cargo_command(args), limit)?;
    Ok(None)
}

/// Most failed tests that are tried a second time; more of them are no accident.
const REPEATED: usize = 3;
/// Where no test is tried a second time: what these promise must hold each time.
const NEVER_REPEATED: [&str; 3] = ["tests/killed.rs", "tests/memory_killed.rs", "tests/restart.rs"];

/// A test that failed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Failure {
    name: String,
    /// Where it panicked and the first line of what it said.
    panic: String,
}

impl Failure {
    fn may_be_repeated(&self) -> bool {
        !NEVER_REPEATED.iter().any(|file| self.panic.starts_with(file))
    }
}

/// Tests that ran, as their lines tell.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Tests {
    passed: u32,
    failed: u32,
    skipped: u32,
    failures: Vec<Failure>,
    /// The line before told of a panic of this test; this one is its message.
    message_of: Option<String>,
}

impl Tests {
    /// Adds a line of the test harness, of a test that panics, or of one that skips itself.
    fn see(&mut self, line: &str) {
        if let Some(name) = self.message_of.take() {
            self.failure(&name).panic.push_str(line);
        }
        let start = line.trim_start().get(..SKIPPED.len());
        if start.is_some_and(|start| start.eq_ignore_ascii_case(SKIPPED)) {
            self.skipped += 1;
        } else if let Some(results) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        {
            self.add(results.1);
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failure(name);
        } else if let Some((thread, place)) = line.split_once(" panicked at ")
            && let Some(name) = thread.strip_prefix("thread '").and_then(|rest| rest.split('\'').next())
            && let Some(failure) = self.failures.iter_mut().find(|f| f.name == name && f.panic.is_empty())
        {
            failure.panic = format!("{place} ");
            self.message_of = Some(name.to_owned());
        }
    }

    /// Adds `3 passed; 0 failed; 1 ignored; 0 measured; …`.
    fn add(&mut self, results: &str) {
        for part in results.split("; ") {
            match part.split_once(' ') {
                Some((n, "passed")) => self.passed += n.parse::<u32>().unwrap_or(0),
                Some((n, "failed")) => self.failed += n.parse::<u32>().unwrap_or(0),
                Some((n, "ignored")) => self.skipped += n.parse::<u32>().unwrap_or(0),
                _ => {}
            }
        }
    }

    fn failure(&mut self, name: &str) -> &mut Failure {
        let at = self.failures.iter().position(|f| f.name == name).unwrap_or_else(|| {
            self.failures.push(Failure { name: name.to_owned(), panic: String::new() });
            self.failures.len() - 1
        });
        &mut self.failures[at]
    }

    fn names(&self) -> Vec<&str> {
        self.failures.iter().map(|f| f.name.as_str()).collect()
    }

    fn describe(&self) -> String {
        let texts = self.failures.iter().map(|f| format!("{}: {}", f.name, f.panic));
        texts.collect::<Vec<_>>().join("; ")
    }
}

/// Plain `cargo test`, which every toolchain has. Test programs run one after the other: they share the CPUs, and some measure.
/// On a machine that others use too a measurement may fail: a few failed tests are tried once more, by themselves, and the summary names them.
fn tests(lenient: bool) -> Result<Option<String>> {
    let (first, result) = run_tests(lenient, &["--workspace", "--no-fail-fast"], &[]);
    println!("{} passed, {} failed, {} skipped", first.passed, first.failed, first.skipped);
    let names = first.names();
    let mut unsteady = String::new();
    if let Err(error) = result {
        let is_accident = !names.is_empty()
            && names.len() == first.failed as usize
            && names.len() <= REPEATED
            && first.failures.iter().all(Failure::may_be_repeated);
        if !is_accident {
            bail!("{} {error:#}", first.describe());
        }
        println!("tried once more: {}", first.describe());
        let (second, result) =
            run_tests(lenient, &["--workspace", "--tests"], &[&["--exact"], &names[..]].concat());
        if result.is_err() || (second.passed as usize) < names.len() {
            bail!("failed: {}; and at the second try: {}", first.describe(), second.describe());
        }
        unsteady = format!(", only at a second try: {}", first.describe());
    }
    if first.passed == 0 {
        bail!("no test ran");
    }
    if first.skipped > 0 && !lenient {
        bail!("{} tests were skipped", first.skipped);
    }
    Ok(Some(format!("{} passed, {} skipped{unsteady}", first.passed, first.skipped)))
}

fn run_tests(lenient: bool, which: &[&str], of_the_harness: &[&str]) -> (Tests, Result<()>) {
    // The output of tests that pass is shown too: a test that skips itself passes, and says so there.
    let words = [&["test", "--locked"], which, &["--", "--show-output"], of_the_harness].concat();
    let mut command = cargo_command(&words);
    if lenient {
        command.env_remove(STRICT);
    } else {
        command.env(STRICT, "1");
    }
    let tests = Mutex::new(Tests::default());
    let result = run_seen(&mut command, minutes(40), |line| {
        if let Ok(mut tests) = tests.lock() {
            tests.see(line);
        }
    });
    (tests.into_inner().unwrap_or_default(), result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let mut tests = Tests::default();
        for line in [
            "test a::b ... ok",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "SKIPPED: no FUSE here",
            "skipped: needs root",
            "skip",
        ] {
            tests.see(line);
        }

        assert_eq!(tests, Tests { passed: 14, failed: 1, skipped: 3, ..Tests::default() });
    }

    #[test]
    fn failure_is_told_with_its_place_and_message() {
        let mut tests = Tests::default();
        for line in [
            "test half ... FAILED",
            "test lost ... FAILED",
            "thread 'half' (12) panicked at tests/cap.rs:7:5:",
            "49.0, expected 50",
            "thread 'lost' (13) panicked at tests/killed.rs:9:5:",
            "left stopped",
            "note: run with `RUST_BACKTRACE=1`",
            "thread 'worker' (14) panicked at src/lib.rs:1:1:",
        ] {
            tests.see(line);
        }

        assert_eq!(tests.names(), ["half", "lost"]);
        assert_eq!(
            tests.describe(),
            "half: tests/cap.rs:7:5: 49.0, expected 50; lost: tests/killed.rs:9:5: left stopped"
        );
        assert!(tests.failures[0].may_be_repeated());
        assert!(!tests.failures[1].may_be_repeated());
    }
}
