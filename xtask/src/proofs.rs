//! The check of SPECIFICATION.md: each proof that it names is there.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Looks for every test file (`….rs`), document (`….md`) and fuzz target that the specification names.
///
/// # Errors
/// If one is missing, all of them in the message.
pub(crate) fn check(root: &Path) -> Result<Option<String>> {
    let text = std::fs::read_to_string(root.join("SPECIFICATION.md")).context("read SPECIFICATION.md")?;
    let named = named(&text);
    let missing: Vec<&str> =
        named.iter().map(String::as_str).filter(|path| !root.join(path).is_file()).collect();
    if !missing.is_empty() {
        bail!("SPECIFICATION.md names proofs that are not there:\n  {}", missing.join("\n  "));
    }
    Ok(Some(format!("{} files named", named.len())))
}

fn named(text: &str) -> BTreeSet<String> {
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c));
    let words = text.split(is_end).map(|word| word.trim_end_matches('.'));
    let mut found: BTreeSet<String> =
        words.filter(|w| w.ends_with(".rs") || w.ends_with(".md")).map(str::to_owned).collect();
    // `fuzz target `name`` or `fuzz targets `a`, `b``: what is in backquotes up to the end of the cell.
    for part in text.split("fuzz target").skip(1) {
        let cell = part.split(['|', ';', '\n']).next().unwrap_or_default();
        for name in cell.split('`').skip(1).step_by(2) {
            found.insert(format!("fuzz/fuzz_targets/{name}.rs"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_fuzz_targets_are_found() {
        let text = "| 1 | x | tests/a.rs, b/tests/c.rs; fuzz targets `one`, `two` |\n| 2 | `y` | [docs/d.md](docs/d.md). |\n";

        let found: Vec<String> = named(text).into_iter().collect();

        assert_eq!(
            found,
            [
                "b/tests/c.rs",
                "docs/d.md",
                "fuzz/fuzz_targets/one.rs",
                "fuzz/fuzz_targets/two.rs",
                "tests/a.rs"
            ]
        );
    }
}
