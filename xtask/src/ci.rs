//! `cargo xtask ci`: everything that must hold before a change is taken. Each step is a command that a person can run.

use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::setup::SetupArgs;
use crate::step::{Steps, run, run_seen};
use crate::{advisories, cargo, leftovers, licences, proofs, purity, root, setup};

/// Set for the tests: then one that cannot run here panics instead of skipping itself.
const STRICT: &str = "COMPARTMENTS_CI";
/// How a test that skips itself says so, in whatever case.
const SKIPPED: &str = "skipped:";

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
    steps.run("setup", || setup::run_setup(&SetupArgs { vm: false, dry_run: args.no_setup }));
    steps.run("format", || run_cargo(&["fmt", "--all", "--check"], minutes(2)));
    steps.run("lints", || {
        run_cargo(
            &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"],
            minutes(15),
        )
    });
    steps.run("pure core", || {
        run_cargo(&["check", "--locked", "-p", "guest-sched", "--no-default-features"], minutes(5))?;
        purity::check(&root().join("guest-sched"))
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

fn cargo_command(args: &[&str]) -> Command {
    let mut command = Command::new(cargo());
    command.args(args).current_dir(root());
    command
}

fn run_cargo(args: &[&str], limit: Duration) -> Result<Option<String>> {
    run(&mut cargo_command(args), limit)?;
    Ok(None)
}

/// Tests that ran, as cargo's lines tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Count {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Count {
    /// Adds a line like `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`, or one of a test that skips itself.
    fn see(&mut self, line: &str) {
        let start = line.trim_start().get(..SKIPPED.len());
        if start.is_some_and(|start| start.eq_ignore_ascii_case(SKIPPED)) {
            self.skipped += 1;
        }
        let Some(numbers) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in numbers.1.split("; ") {
            match part.split_once(' ') {
                Some((n, "passed")) => self.passed += n.parse::<u32>().unwrap_or(0),
                Some((n, "failed")) => self.failed += n.parse::<u32>().unwrap_or(0),
                Some((n, "ignored")) => self.skipped += n.parse::<u32>().unwrap_or(0),
                _ => {}
            }
        }
    }
}

/// Plain `cargo test`, which every toolchain has. Test programs run one after the other: they share the CPUs, and some measure.
fn tests(lenient: bool) -> Result<Option<String>> {
    let count = Mutex::new(Count::default());
    // The output of tests that pass is shown too: a test that skips itself passes, and says so there.
    let words = ["test", "--locked", "--workspace", "--no-fail-fast", "--", "--show-output"];
    let mut command = cargo_command(&words);
    if lenient {
        command.env_remove(STRICT);
    } else {
        command.env(STRICT, "1");
    }
    let result = run_seen(&mut command, minutes(40), |line| {
        if let Ok(mut count) = count.lock() {
            count.see(line);
        }
    });
    let Count { passed, failed, skipped } = count.into_inner().unwrap_or_default();
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    result?;
    if passed == 0 {
        bail!("no test ran");
    }
    if skipped > 0 && !lenient {
        bail!("{skipped} tests were skipped");
    }
    Ok(Some(format!("{passed} passed, {skipped} skipped")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let mut count = Count::default();
        for line in [
            "test a::b ... ok",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "SKIPPED: no FUSE here",
            "skipped: needs root",
            "skip",
        ] {
            count.see(line);
        }

        assert_eq!(count, Count { passed: 14, failed: 1, skipped: 3 });
    }
}
