//! `mv`: processes into a group, with their descendants if asked.

use std::collections::BTreeSet;

use clap::Args;

use super::for_each;
use crate::args::Context;
use crate::exit::CliError;
use crate::tree::{Compartment, GroupName, Tree};

/// Move processes into a group.
#[derive(Debug, Args)]
pub(crate) struct MvArgs {
    /// The processes
    #[arg(required = true, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pids: Vec<i32>,
    /// The group; 0 is the host itself
    group: GroupName,
    /// Their descendants too
    #[arg(long)]
    tree: bool,
}

impl MvArgs {
    /// Moves them one by one.
    pub(crate) fn run(self, context: &Context) -> Result<(), CliError> {
        let tree = context.tree()?;
        let group = tree.compartment(&self.group)?;
        for_each(&self.pids, |pid| {
            move_one(&tree, pid, &group)?;
            if self.tree { move_descendants(&tree, pid, &group) } else { Ok(()) }
        })
    }
}

/// Moves a process into each of the name's groups that it is not in already.
pub(super) fn move_one(tree: &Tree, pid: i32, to: &Compartment) -> Result<(), CliError> {
    Ok(to.take_in(tree, pid)?)
}

/// Moves what descends from a process that is in the group already. Who is moved takes later children along, so this
/// ends when a round finds nobody new.
fn move_descendants(tree: &Tree, pid: i32, to: &Compartment) -> Result<(), CliError> {
    let mut done = BTreeSet::from([pid]);
    loop {
        let new: Vec<i32> =
            descendants(pid, &parents()).into_iter().filter(|pid| done.insert(*pid)).collect();
        if new.is_empty() {
            return Ok(());
        }
        for pid in new {
            match move_one(tree, pid, to) {
                Err(CliError::Tree(e)) if e.is_gone() => {}
                other => other?,
            }
        }
    }
}

/// Lists what descends from `pid`, parents before children.
fn descendants(pid: i32, parents: &[(i32, i32)]) -> Vec<i32> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        at += 1;
    }
    found.split_off(1)
}

/// Lists all processes with their parents.
fn parents() -> Vec<(i32, i32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, host_sys::process::stat(pid).ok()?.ppid)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fake;

    #[test]
    fn descendants_are_listed_parents_first() {
        let parents = [(2, 1), (3, 2), (4, 1), (5, 3), (9, 8)];

        assert_eq!(descendants(1, &parents), [2, 4, 3, 5]);
        assert_eq!(descendants(9, &parents), [0i32; 0]);
    }

    #[test]
    fn move_of_many_moves_those_that_can_be() {
        let (dir, tree) = fake::tree();
        let context = Context { mount: Some(dir.path().to_owned()) };
        let web: GroupName = "web".parse().expect("a name");

        let result = MvArgs { pids: vec![7, 50, 41], group: web.clone(), tree: false }.run(&context);

        assert!(matches!(result, Err(CliError::Partly { failed: 1, all: 3, .. })));
        assert_eq!(tree.group(&web).members().expect("readable"), [41, 42, 50]);
    }
}
