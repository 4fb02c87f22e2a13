//! `set`: several settings of a group, all or none.

use clap::Args;

use super::settings::Settings;
use crate::args::Context;
use crate::exit::CliError;
use crate::tree::{Group, GroupName, TreeError};

/// Change settings of a group or of its members.
#[derive(Debug, Args)]
#[command(
    after_help = "Keys are the names of the files in the group's directory: nice, vcpus, slice_usec, cpu.max, scheduler; \
of a member PID/nice, PID/policy. `cpu=0.25` sets cpu.max and vcpus as `create --cpu` does."
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
        let group = context.tree()?.existing_group(&self.group)?;
        let writes: Vec<_> = self.assignments.into_iter().flat_map(|a| a.0).collect();
        Ok(write_all(&group, &writes)?)
    }
}

/// What can be read can be written back: so the old values undo a change.
fn write_all(group: &Group, writes: &[(String, String)]) -> Result<(), TreeError> {
    let mut old: Vec<(&str, String)> = Vec::new();
    for (key, value) in writes {
        let before = group.read(key);
        if let Err(e) = group.write(key, value) {
            for (key, value) in old.iter().rev() {
                if let Err(e) = group.write(key, value) {
                    eprintln!("compartment: cannot undo {key}: {e}");
                }
            }
            return Err(e);
        }
        old.extend(before.ok().map(|before| (key.as_str(), before)));
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
        let (_dir, tree) = fake::tree();
        let web = tree.group(&"web".parse().expect("a name"));

        let result = write_all(&web, &pairs(&[("nice", "7"), ("vcpus", "2"), ("nothing", "1")]));

        assert!(result.is_err());
        assert_eq!(web.read("nice").expect("readable"), "0");
        assert_eq!(web.read("vcpus").expect("readable"), "1");
    }
}
