//! `set`: several settings of a group, all or none.

use clap::Args;

use super::settings::Settings;
use crate::args::Context;
use crate::exit::CliError;
use crate::tree::{Compartment, Group, GroupName, TreeError};

/// Change settings of a group or of its members.
#[derive(Debug, Args)]
#[command(
    after_help = "Keys are the names of the files in the group's directory: nice, vcpus, slice_usec, cpu.max, scheduler; \
of a member PID/nice, PID/policy; of its memory memory.max, memory.swap.max, memory.swap.tiers, memory.reclaim. \
`cpu=0.25` sets cpu.max and vcpus as `create --cpu` does, `memory=64M` sets memory.max."
)]
pub(crate) struct SetArgs {
    /// The group
    group: GroupName,
    /// What to set; the first that is refused undoes those before it
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_assignment)]
    assignments: Vec<Assignment>,
}

/// One or more writes that a `KEY=VALUE` stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Assignment(Vec<(String, String)>);

fn parse_assignment(text: &str) -> Result<Assignment, String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if key == "cpu" {
        let settings = Settings { cpu: Some(value.parse()?), ..Settings::default() };
        return Ok(Assignment(settings.writes().into_iter().map(|(k, v)| (k.to_owned(), v)).collect()));
    }
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    let key = if key == "memory" { "memory.max" } else { key };
    if !key.split('/').all(is_plain) || key.split('/').count() > 2 {
        return Err(format!("{key:?} is no setting"));
    }
    if value.is_empty() {
        return Err(format!("{key} is given no value"));
    }
    Ok(Assignment(vec![(key.to_owned(), value.to_owned())]))
}

impl SetArgs {
    /// Writes the settings.
    pub(crate) fn run(self, context: &Context) -> Result<(), CliError> {
        let group = context.tree()?.compartment(&self.group)?;
        let writes: Vec<_> = self.assignments.into_iter().flat_map(|a| a.0).collect();
        Ok(write_all(&group, &writes)?)
    }
}

/// What can be read can be written back: so the old values undo a change.
fn write_all(compartment: &Compartment, writes: &[(String, String)]) -> Result<(), TreeError> {
    let mut old: Vec<(&Group, &str, String)> = Vec::new();
    for (key, value) in writes {
        // The names of its files tell a mem_group from a sched_group.
        let is_mem = key.starts_with("memory.");
        let part = if is_mem { compartment.mem() } else { compartment.sched() };
        let undone = part.ok_or_else(|| TreeError::NoPart {
            name: compartment.name().clone(),
            part: if is_mem { "mem_group" } else { "sched_group" },
        });
        let before = undone.as_ref().ok().and_then(|group| group.read(key).ok());
        if let Err(e) = undone.and_then(|group| group.write(key, value)) {
            for (group, key, value) in old.iter().rev() {
                if let Err(e) = group.write(key, value) {
                    eprintln!("compartment: cannot undo {key}: {e}");
                }
            }
            return Err(e);
        }
        old.extend(part.zip(before).map(|(group, before)| (group, key.as_str(), before)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fake;

    fn pairs(writes: &[(&str, &str)]) -> Vec<(String, String)> {
        writes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn assignment_is_parsed() {
        assert_eq!(parse_assignment("nice=-5"), Ok(Assignment(pairs(&[("nice", "-5")]))));
        assert_eq!(
            parse_assignment("cpu.max=max 100000"),
            Ok(Assignment(pairs(&[("cpu.max", "max 100000")])))
        );
        assert_eq!(parse_assignment("41/policy=rr 5"), Ok(Assignment(pairs(&[("41/policy", "rr 5")]))));
        let cpu = pairs(&[("vcpus", "1"), ("cpu.max", "25000 100000")]);
        assert_eq!(parse_assignment("cpu=0.25"), Ok(Assignment(cpu)));
        assert_eq!(parse_assignment("memory=64M"), Ok(Assignment(pairs(&[("memory.max", "64M")]))));
    }

    #[test]
    fn assignment_that_leaves_the_group_is_refused() {
        for bad in
            ["nice", "=1", "../x/nice=1", "41/../nice=1", "/etc/passwd=1", "a/b/c=1", "nice=", "cpu=no"]
        {
            assert!(parse_assignment(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn refused_setting_undoes_those_before_it() {
        let (dir, tree) = fake::tree();
        fake::mem_group(dir.path(), "web");
        let all = tree.compartment(&"web".parse().expect("a name")).expect("exists");
        let (web, pool) = (all.sched().expect("both"), all.mem().expect("both"));

        let result =
            write_all(&all, &pairs(&[("nice", "7"), ("memory.max", "1G"), ("vcpus", "2"), ("nothing", "1")]));

        assert!(result.is_err());
        assert_eq!(web.read("nice").expect("readable"), "0");
        assert_eq!(web.read("vcpus").expect("readable"), "1");
        assert_eq!(pool.read("memory.max").expect("readable"), "67108864");
        let pool_only = Compartment::new(pool.name().clone(), None, Some(pool.clone()));
        let refused = write_all(&pool_only, &pairs(&[("nice", "7")]));
        assert!(matches!(refused, Err(TreeError::NoPart { part: "sched_group", .. })));
    }
}
