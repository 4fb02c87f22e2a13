//! The project's own tasks: `cargo xtask …` is the one door for set-up, checks and benches.
//!
//! - [`ci`]: everything that must hold before a change is taken; its parts are [`purity`], [`licences`], [`advisories`], [`proofs`], [`leftovers`].
//! - [`setup`]: the programs that tests and benches need.
//! - [`mod@bench`]: the comparison with peers; [`load`]: the programs that it measures.
//! - [`fuzz`]: fuzz targets without further tools.
//! - [`vm`]: a boot of a pure cgroup v2 host.

mod advisories;
mod bench;
mod ci;
mod fuzz;
mod leftovers;
mod licences;
mod load;
mod proofs;
mod purity;
mod setup;
mod step;
mod vm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what tests and benches need
    Setup(setup::SetupArgs),
    /// Check everything: format, lints, purity, tests, docs, licences, advisories
    Ci(ci::CiArgs),
    /// Fail if processes, mounts or cgroups of ours are left on this host
    Leftovers,
    /// Measure beside peers
    Bench(bench::BenchArgs),
    /// Run a fuzz target for a while
    Fuzz(fuzz::FuzzArgs),
    /// Boot a pure cgroup v2 host and run the session there
    VmTest(vm::VmArgs),
    /// A program to be measured
    #[command(hide = true)]
    Load(load::LoadArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup(args) => setup::run_task(&args),
        Task::Ci(args) => ci::run_ci(&args),
        Task::Leftovers => leftovers::run(),
        Task::Bench(args) => bench::main(&args),
        Task::Fuzz(args) => fuzz::main(&args),
        Task::VmTest(args) => vm::main(&args),
        Task::Load(args) => load::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Gives the directory of the workspace.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Gives the cargo that runs us.
fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}
