//! `show`: a group, or one member.

use std::io::Write;

use clap::Args;
use serde_json::{Map, Value};

use super::ps;
use crate::args::Context;
use crate::exit::CliError;
use crate::output;
use crate::tree::GroupName;
use crate::tree::sample::{GroupSample, MemSample, MemberSample};
use crate::tree::values::{Pairs, json_of, printable, size_of_bytes, time_of_usec};

/// Show a group, or one of its members.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The group
    group: GroupName,
    /// One of its members
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ShowArgs {
    /// Prints it.
    pub(crate) fn run(self, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
        let group = context.tree()?.compartment(&self.group)?;
        let Some(pid) = self.pid else {
            let sample = GroupSample::read(&group)?;
            return if self.json {
                Ok(output::json(out, &sample.to_json())?)
            } else {
                show_group(out, &sample)
            };
        };
        let details = MemberSample::read_details(&group, pid)?;
        if self.json {
            return Ok(output::json(out, &member_json(&self.group, pid, &details))?);
        }
        writeln!(out, "{:<14}{pid}", "pid")?;
        writeln!(out, "{:<14}{}", "group", self.group)?;
        for (file, text) in &details {
            show_value(out, file, text)?;
        }
        Ok(())
    }
}

/// A file's value on one line, a keyed file's lines below its name.
fn show_value(out: &mut dyn Write, file: &str, text: &str) -> std::io::Result<()> {
    match file {
        "sched" | "stat" | "memory.stat" => Pairs::parse(text)
            .iter()
            .try_for_each(|(key, value)| writeln!(out, "{key:<14}  {}", printable(value))),
        "cmdline" => {
            writeln!(out, "{file:<14}{}", printable(text.trim_end_matches('\0')).replace("\\u{0}", " "))
        }
        "unmanaged" => text.lines().try_for_each(|line| writeln!(out, "{file:<14}{}", printable(line))),
        _ if file.len() < 14 => writeln!(out, "{file:<14}{}", printable(text)),
        _ => writeln!(out, "{file}  {}", printable(text)),
    }
}

fn member_json(group: &GroupName, pid: i32, details: &[(&str, String)]) -> Value {
    let mut object = Map::new();
    object.insert("group".into(), group.to_string().into());
    object.insert("pid".into(), pid.into());
    for (file, text) in details {
        let value = match *file {
            "sched" | "stat" | "memory.stat" => Pairs::parse(text).to_json(),
            "nice" | "memory.current" | "memory.swap.current" => json_of(text),
            "unmanaged" => text.lines().collect(),
            "cmdline" => text.trim_end_matches('\0').split('\0').collect(),
            _ => text.as_str().into(),
        };
        object.insert((*file).to_owned(), value);
    }
    Value::Object(object)
}

fn show_group(out: &mut dyn Write, group: &GroupSample) -> Result<(), CliError> {
    writeln!(out, "{:<16}{}", "group", group.name)?;
    if group.has_sched {
        show_sched(out, group)?;
    }
    if let Some(memory) = &group.memory {
        show_memory(out, memory)?;
    }
    writeln!(out)?;
    Ok(ps::members_table([group]).write(out)?)
}

fn show_memory(out: &mut dyn Write, memory: &MemSample) -> Result<(), CliError> {
    let bytes = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| format!("{n}  ({})", size_of_bytes(n)));
    let limit = |text: &str| text.parse().map_or_else(|_| text.to_owned(), |n| bytes(Some(n)));
    for (name, value) in [
        ("vm", memory.vm.clone()),
        ("vm representative", memory.representative.clone()),
        ("memory.max", limit(&memory.max)),
        ("memory.current", bytes(memory.current)),
        ("memory.swap.max", limit(&memory.swap_max)),
        ("memory.swap.current", bytes(memory.swap_current)),
        ("memory.swap.tiers", memory.swap_tiers.clone()),
    ] {
        writeln!(out, "{name:<20}{value}")?;
    }
    for (title, pairs) in [
        ("memory.stat", &memory.stat),
        ("memory.events", &memory.events),
        ("memory.pressure", &memory.pressure),
    ] {
        show_pairs(out, title, pairs)?;
    }
    Ok(())
}

fn show_pairs(out: &mut dyn Write, title: &str, pairs: &Pairs) -> Result<(), CliError> {
    writeln!(out, "{title}")?;
    for (key, value) in pairs.iter() {
        writeln!(out, "  {key:<22}{}", printable(value))?;
    }
    Ok(())
}

fn show_sched(out: &mut dyn Write, group: &GroupSample) -> Result<(), CliError> {
    let cap = group.cpu_max.map_or_else(
        || "?".to_owned(),
        |max| match max.cpus() {
            Some(cpus) => format!("{max}  ({} CPUs)", (cpus * 1000.0).round() / 1000.0),
            None => format!("{max}  (no cap)"),
        },
    );
    for (name, value) in [
        ("scheduler", group.scheduler.clone()),
        ("representative", group.representative.clone()),
        ("slice_usec", group.slice_usec.clone()),
        ("vcpus", group.vcpus.clone()),
        ("nice", group.nice.clone()),
        ("cpu.max", cap),
        ("mode", group.mode.clone()),
        ("cpu time", time_of_usec(group.usage_usec())),
    ] {
        writeln!(out, "{name:<16}{value}")?;
    }
    for (title, pairs) in [("cpu.stat", &group.stat), ("cpu.promise", &group.promise)] {
        show_pairs(out, title, pairs)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fake;

    fn show(args: ShowArgs, mount: &std::path::Path) -> Result<String, CliError> {
        let mut out = Vec::new();
        args.run(&Context { mount: Some(mount.to_owned()) }, &mut out)?;
        Ok(String::from_utf8(out).expect("text"))
    }

    #[test]
    fn group_is_shown_with_members() {
        let (dir, _tree) = fake::tree();
        let group: GroupName = "web".parse().expect("a name");

        let text =
            show(ShowArgs { group: group.clone(), pid: None, json: false }, dir.path()).expect("exists");
        assert!(text.contains("cpu.max         25000 100000  (0.25 CPUs)"), "{text}");
        assert!(text.contains("error_pct             -0.40"), "{text}");

        let json = show(ShowArgs { group, pid: None, json: true }, dir.path()).expect("exists");
        let value: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["cpu.promise"]["got"], 2_490_000);
    }

    #[test]
    fn memory_is_shown_beside_the_rest_and_alone() {
        let (dir, _tree) = fake::tree();
        fake::mem_group(dir.path(), "web");
        fake::mem_member(dir.path(), "web", 41);
        fake::mem_group(dir.path(), "pool");
        let get = |name: &str, pid, json| {
            show(ShowArgs { group: name.parse().expect("a name"), pid, json }, dir.path()).expect("exists")
        };

        let both = get("web", None, false);
        assert!(both.contains("cpu.max") && both.contains("memory.max          67108864  (64.0M)"), "{both}");
        assert!(both.contains("  some                  avg10=1.50"), "{both}");
        let pool = get("pool", None, false);
        assert!(!pool.contains("cpu.max") && pool.contains("lz4:16M file:2G:/var/tmp"), "{pool}");
        let member: Value = serde_json::from_str(&get("web", Some(41), true)).expect("JSON");
        assert_eq!(
            (&member["memory.current"], &member["unmanaged"][0]),
            (&(2 << 20).into(), &"1000-3000 4096 locked".into())
        );
        assert!(get("web", Some(41), false).contains("memory.swap.current  1048576\n"));
    }

    #[test]
    fn member_is_shown_with_its_numbers() {
        let (dir, _tree) = fake::tree();
        let group: GroupName = "web".parse().expect("a name");

        let text =
            show(ShowArgs { group: group.clone(), pid: Some(41), json: false }, dir.path()).expect("exists");
        assert!(text.contains("state         running"), "{text}");
        let json =
            show(ShowArgs { group: group.clone(), pid: Some(41), json: true }, dir.path()).expect("exists");
        let value: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&value["sched"]["prio"], &value["nice"]), (&120.into(), &5.into()));
        assert!(show(ShowArgs { group, pid: Some(9), json: false }, dir.path()).is_err());
    }
}
