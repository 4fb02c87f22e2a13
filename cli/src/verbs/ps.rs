//! `ps`: groups and members.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use crate::args::Context;
use crate::exit::CliError;
use crate::output::{self, Align, Table};
use crate::tree::sample::{GroupSample, MemberSample};
use crate::tree::values::time_of_usec;
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
    names.iter().map(|name| Ok(GroupSample::read(&tree.existing_group(name)?)?)).collect()
}

/// Reads every group; one that is removed meanwhile is left out.
pub(super) fn read_all(tree: &Tree) -> Result<Vec<GroupSample>, TreeError> {
    let mut samples = Vec::new();
    for group in tree.groups()? {
        match GroupSample::read(&group) {
            Err(e) if e.is_gone() => {}
            sample => samples.push(sample?),
        }
    }
    Ok(samples)
}

/// Gives the members of some groups as a table.
pub(super) fn members_table<'a>(groups: impl IntoIterator<Item = &'a GroupSample>) -> Table {
    let mut table = Table::new(&[
        ("PID", Align::Right),
        ("GROUP", Align::Left),
        ("STATE", Align::Left),
        ("NI", Align::Right),
        ("PRIO", Align::Right),
        ("TIME", Align::Right),
        ("COMM", Align::Left),
    ]);
    for group in groups {
        for member in &group.members {
            table.row(cells(&group.name, member));
        }
    }
    table
}

fn cells(group: &GroupName, member: &MemberSample) -> [String; 7] {
    let number = |n: Option<i64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    [
        member.pid.to_string(),
        group.to_string(),
        if member.state.is_empty() { "-".into() } else { member.state.clone() },
        number(member.nice),
        number(member.prio),
        member.usage_usec.map_or_else(|| "-".to_owned(), time_of_usec),
        member.comm.clone(),
    ]
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
}
