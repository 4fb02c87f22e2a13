//! The advisory check, where its data base can be had: see docs/adr/0007-advisories.md.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::step::{has_program, run};

const LIMIT: Duration = Duration::from_secs(120);

/// Looks the locked dependencies up in a copy of the RustSec data base.
///
/// # Errors
/// If one of them has an advisory. It is no error if there is no tool or no data base, but it is said.
pub(crate) fn check() -> Result<Option<String>> {
    let Some(db) = database() else {
        return Ok(Some("not checked: no copy of the RustSec data base is here".into()));
    };
    if !has_program("cargo-audit") {
        return Ok(Some("not checked: cargo-audit is not installed".into()));
    }
    let mut command = Command::new(crate::cargo());
    command.args(["audit", "--no-fetch", "--db"]).arg(&db).current_dir(crate::root());
    run(&mut command, LIMIT)?;
    Ok(Some(format!("checked with {}", db.display())))
}

/// Finds a data base: where `RUSTSEC_DB` says, else where `cargo audit` and `cargo deny` keep theirs.
fn database() -> Option<PathBuf> {
    let named = std::env::var_os("RUSTSEC_DB").map(PathBuf::from);
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let usual = home.map(|home| home.join("advisory-db"));
    named.into_iter().chain(usual).find(|dir| dir.join("crates").is_dir())
}
