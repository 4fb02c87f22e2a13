//! `ps`: groups and members.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use crate::args::Context;
use crate::exit::CliError;
use crate::output::{self, Align, Table};
use crate::tree::sample::{GroupSample, MemberSample};
use crate::tree::values::{size_of_bytes, time_of_usec};
use crate::tree::{GroupName, Tree, TreeError};

/// List groups and their members.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Only these groups; 0 lists the processes in none
    groups: Vec<GroupName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl PsArgs {
    /// Prints them.
    pub(crate) fn run(self, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
        let tree = context.tree()?;
        let groups = if self.groups.is_empty() { read_all(&tree)? } else { read(&tree, &self.groups)? };
        if self.json {
            return Ok(output::json(out, &groups.iter().map(GroupSample::to_json).collect::<Value>())?);
        }
        let mut empty: Vec<String> = Vec::new();
        for group in groups.iter().filter(|group| group.members.is_empty()) {
            empty.push(group.name.to_string());
        }
        members_table(&groups).write(out)?;
        if !empty.is_empty() {
            writeln!(out, "empty groups: {}", empty.join(" "))?;
        }
        Ok(())
    }
}

fn read(tree: &Tree, names: &[GroupName]) -> Result<Vec<GroupSample>, CliError> {
    names.iter().map(|name| Ok(GroupSample::read(&tree.compartment(name)?)?)).collect()
}

/// Reads every group; one that is removed meanwhile is left out.
pub(super) fn read_all(tree: &Tree) -> Result<Vec<GroupSample>, TreeError> {
    let mut samples = Vec::new();
    for group in tree.compartments()? {
        match GroupSample::read(&group) {
            Err(e) if e.is_gone() => {}
            sample => samples.push(sample?),
        }
    }
    Ok(samples)
}

/// Gives the members of some groups as a table.
pub(super) fn members_table<'a>(groups: impl IntoIterator<Item = &'a GroupSample>) -> Table {
    let groups: Vec<&GroupSample> = groups.into_iter().collect();
    let has_memory = groups.iter().any(|group| group.memory.is_some());
    let mut columns = vec![
        ("PID", Align::Right),
        ("GROUP", Align::Left),
        ("STATE", Align::Left),
        ("NI", Align::Right),
        ("PRIO", Align::Right),
        ("TIME", Align::Right),
    ];
    if has_memory {
        columns.extend([("RES", Align::Right), ("SWAP", Align::Right)]);
    }
    columns.push(("COMM", Align::Left));
    let mut table = Table::new(&columns);
    for group in groups {
        for member in &group.members {
            table.row(cells(&group.name, member, has_memory));
        }
    }
    table
}

fn cells(group: &GroupName, member: &MemberSample, has_memory: bool) -> Vec<String> {
    let number = |n: Option<i64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let size = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), size_of_bytes);
    let mut cells = vec![
        member.pid.to_string(),
        group.to_string(),
        if member.state.is_empty() { "-".into() } else { member.state.clone() },
        number(member.nice),
        number(member.prio),
        member.usage_usec.map_or_else(|| "-".to_owned(), time_of_usec),
    ];
    if has_memory {
        cells.extend([size(member.resident), size(member.swapped)]);
    }
    cells.push(member.comm.clone());
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fake;

    #[test]
    fn members_are_listed_without_the_ungrouped() {
        let (dir, _tree) = fake::tree();
        let mut out = Vec::new();

        let args = PsArgs { groups: Vec::new(), json: false };
        args.run(&Context { mount: Some(dir.path().to_owned()) }, &mut out).expect("readable");

        let text = String::from_utf8(out).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "PID  GROUP  STATE    NI  PRIO     TIME  COMM");
        assert_eq!(lines[1], " 41  web    running   5   120  0:02.00  sh");
        assert_eq!(lines.len(), 3, "{text}");
    }

    #[test]
    fn memory_is_shown_where_there_is_some_to_show() {
        let (dir, _tree) = fake::tree();
        fake::mem_group(dir.path(), "web");
        fake::mem_member(dir.path(), "web", 41);
        fake::mem_group(dir.path(), "pool");
        fake::mem_member(dir.path(), "pool", 50);
        let mut out = Vec::new();

        let args = PsArgs { groups: Vec::new(), json: false };
        args.run(&Context { mount: Some(dir.path().to_owned()) }, &mut out).expect("readable");

        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("PID  GROUP  STATE    NI  PRIO     TIME   RES  SWAP  COMM\n"), "{text}");
        assert!(text.contains(" 50  pool   -         -     -        -  2.0M  1.0M  sh\n"), "{text}");
        assert!(text.contains(" 41  web    running   5   120  0:02.00  2.0M  1.0M  sh\n"), "{text}");
    }
}
