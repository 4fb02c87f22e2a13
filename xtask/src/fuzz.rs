//! `cargo xtask fuzz`: a fuzz target for a while, with any toolchain.
//!
//! What `cargo fuzz -s none` does: coverage counters for libFuzzer by the compiler's own pass, which needs no nightly flag.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::step::run;

/// Run a fuzz target for a while.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// A file of fuzz/fuzz_targets, without `.rs`
    target: String,
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
}

const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions --cfg fuzzing";

/// Builds and runs it.
///
/// # Errors
/// If it cannot be built, or finds something.
pub(crate) fn main(args: &FuzzArgs) -> Result<()> {
    let dir = crate::root().join("fuzz");
    let triple = host_triple()?;
    let out =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| dir.join("target"), PathBuf::from).join("fuzz");
    let mut build = Command::new(crate::cargo());
    build.args(["build", "--release", "--bin", &args.target, "--target", &triple, "--target-dir"]).arg(&out);
    // With a target named, the flags are not for build scripts and macros.
    run(build.current_dir(&dir).env("RUSTFLAGS", FLAGS), Duration::from_secs(1_800))?;
    let (corpus, artifacts) =
        (dir.join("corpus").join(&args.target), dir.join("artifacts").join(&args.target));
    for made in [&corpus, &artifacts] {
        std::fs::create_dir_all(made).with_context(|| format!("make {}", made.display()))?;
    }
    let mut fuzzer = Command::new(out.join(&triple).join("release").join(&args.target));
    fuzzer.arg(&corpus).arg(format!("-artifact_prefix={}/", artifacts.display()));
    fuzzer.args([
        format!("-max_total_time={}", args.seconds),
        "-max_len=4096".into(),
        "-print_final_stats=1".into(),
    ]);
    run(fuzzer.current_dir(&dir), Duration::from_secs(args.seconds + 120))
}

fn host_triple() -> Result<String> {
    let text = crate::step::output(Command::new("rustc").arg("-vV"))?;
    text.lines()
        .find_map(|l| l.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc does not tell its host")
}
