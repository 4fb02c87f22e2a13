//! The pure-core check: the cores of the guest scheduler and the guest VM may not read a clock, nor do I/O, start threads, or look at its environment.
//!
//! `cargo check --no-default-features` already keeps other crates out of it; this looks for what the standard library would let
//! through. Tests (`#[cfg(test)]`) may do what they want.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use syn::visit::{self, Visit};
use syn::{Attribute, Meta, UseTree};

/// Paths that the core may not use, nor anything below them.
const FORBIDDEN: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    // Seeded at random: iteration would differ from run to run.
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::collections::hash_map",
    "std::hash::RandomState",
];

/// Macros that write somewhere, or keep state of a thread.
const FORBIDDEN_MACROS: &[&str] = &["dbg", "eprint", "eprintln", "env", "print", "println", "thread_local"];

/// What is not core in a crate's `src`: its driver.
const SHELLS: &[&str] = &["host", "uffd"];

/// Checks the core of the crate in `crate_dir`.
///
/// # Errors
/// If a file uses what it may not, each use in the message.
pub(crate) fn check(crate_dir: &Path) -> Result<Option<String>> {
    let mut files = Vec::new();
    collect(&crate_dir.join("src"), &mut files)?;
    let mut offences = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let found = offences_in(&text).with_context(|| format!("parse {}", file.display()))?;
        offences.extend(found.into_iter().map(|what| format!("{}: {what}", file.display())));
    }
    if !offences.is_empty() {
        bail!("the core is not pure:\n  {}", offences.join("\n  "));
    }
    Ok(Some(format!("{} files", files.len())))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| !SHELLS.iter().any(|shell| name == *shell)) {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn offences_in(text: &str) -> syn::Result<Vec<String>> {
    let file = syn::parse_file(text)?;
    let mut finder = Finder::default();
    finder.visit_file(&file);
    Ok(finder.found)
}

#[derive(Default)]
struct Finder {
    found: Vec<String>,
}

impl Finder {
    fn see(&mut self, path: &str) {
        let is_below = |forbidden: &str| {
            path.strip_prefix(forbidden).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        // A glob takes in everything below it.
        let takes_in = |forbidden: &str| {
            path.strip_suffix("::*").is_some_and(|dir| dir != "std" && forbidden.starts_with(dir))
                || path == "std::*"
        };
        if FORBIDDEN.iter().any(|f| is_below(f) || takes_in(f)) {
            self.found.push(path.to_owned());
        }
    }

    fn see_use(&mut self, before: &str, tree: &UseTree) {
        let join = |name: &str| if before.is_empty() { name.to_owned() } else { format!("{before}::{name}") };
        match tree {
            UseTree::Path(path) => self.see_use(&join(&path.ident.to_string()), &path.tree),
            UseTree::Name(name) if name.ident == "self" => self.see(before),
            UseTree::Name(name) => self.see(&join(&name.ident.to_string())),
            UseTree::Rename(rename) if rename.ident == "self" => self.see(before),
            UseTree::Rename(rename) => self.see(&join(&rename.ident.to_string())),
            UseTree::Glob(_) => self.see(&join("*")),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.see_use(before, item)),
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|a| match &a.meta {
        Meta::List(list) if a.path().is_ident("cfg") => list.tokens.to_string() == "test",
        _ => false,
    })
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) {
            self.see_use("", &item.tree);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.see(&words.join("::"));
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        if let Some(name) = mac.path.segments.last().map(|s| s.ident.to_string())
            && FORBIDDEN_MACROS.contains(&name.as_str())
        {
            self.found.push(format!("{name}!"));
        }
        // Inside a macro there is no grammar to follow, but its words are there.
        let words = mac.tokens.to_string().replace(' ', "");
        for forbidden in FORBIDDEN.iter().filter(|f| words.contains(**f)) {
            self.found.push(format!("{forbidden} in a macro"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        offences_in(text).expect("it parses")
    }

    #[test]
    fn impure_uses_are_found() {
        assert_eq!(found("use std::time::{Duration, Instant};"), ["std::time::Instant"]);
        assert_eq!(found("use std::{fs, fmt};"), ["std::fs"]);
        assert_eq!(found("use std::fs::{self, File};"), ["std::fs", "std::fs::File"]);
        assert_eq!(found("use std::thread as t;"), ["std::thread"]);
        assert_eq!(found("use std::time::*;"), ["std::time::*"]);
        assert_eq!(found("fn f() { let _ = std::env::var(\"X\"); }"), ["std::env::var"]);
        assert_eq!(found("fn f() { println!(\"x\"); }"), ["println!"]);
        assert_eq!(found("fn f() { vec![std::time::Instant::now()]; }"), ["std::time::Instant in a macro"]);
    }

    #[test]
    fn pure_text_and_tests_are_let_through() {
        assert!(
            found(
                "use std::time::Duration;\n/// `std::fs` is not used.\nfn f() -> &'static str { \"std::fs\" }"
            )
            .is_empty()
        );
        assert!(found("#[cfg(test)] mod tests { use std::fs; fn f() { println!(\"\"); } }").is_empty());
        assert!(found("use std::fmt::Formatter; use std::collections::BTreeMap;").is_empty());
    }
}
