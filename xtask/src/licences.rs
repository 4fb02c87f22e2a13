//! The licence check: every dependency must be usable under a licence of a short list.

use anyhow::{Context as _, Result, bail};
use cargo_metadata::MetadataCommand;
use spdx::{Expression, LicenseReq, ParseMode};

/// What the project may be linked with. Permissive, but for MPL-2.0, whose copyleft ends at the file.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Checks the locked dependencies of the workspace.
///
/// # Errors
/// If a package's licence is unknown, missing, or cannot be satisfied.
pub(crate) fn check() -> Result<Option<String>> {
    let mut command = MetadataCommand::new();
    command.cargo_path(crate::cargo()).manifest_path(crate::root().join("Cargo.toml"));
    command.other_options(["--locked".to_owned()]);
    let metadata = command.exec().context("read the dependencies")?;
    let mut offences = Vec::new();
    for package in &metadata.packages {
        let verdict = match &package.license {
            Some(text) => judge(text),
            None => Err("no licence given".to_owned()),
        };
        if let Err(why) = verdict {
            offences.push(format!("{} {}: {why}", package.name, package.version));
        }
    }
    if !offences.is_empty() {
        bail!("licences that may not be used:\n  {}", offences.join("\n  "));
    }
    Ok(Some(format!("{} packages", metadata.packages.len())))
}

fn judge(text: &str) -> Result<(), String> {
    let expression =
        Expression::parse_mode(text, ParseMode::LAX).map_err(|e| format!("{text:?}: {}", e.reason))?;
    if expression.evaluate(is_allowed) { Ok(()) } else { Err(text.to_owned()) }
}

/// An addition like `WITH LLVM-exception` only permits more.
fn is_allowed(requirement: &LicenseReq) -> bool {
    requirement.license.id().is_some_and(|id| ALLOWED.contains(&id.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choice_with_one_allowed_licence_is_taken() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0-only",
            "MIT/Apache-2.0",
            "Apache-2.0 WITH LLVM-exception",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
        ] {
            assert_eq!(judge(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["GPL-3.0-only", "MIT AND GPL-2.0-only", "LicenseRef-mine", "not a licence", ""] {
            assert!(judge(bad).is_err(), "{bad}");
        }
    }
}
