//! `rm`: an empty group, or with `--force` one whose members go back to the host first.

use std::time::{Duration, Instant};

use clap::Args;

use crate::args::Context;
use crate::exit::CliError;
use crate::tree::{Group, GroupName, Tree};

/// How long members that fork all the time are chased.
const FORCE_TIMEOUT: Duration = Duration::from_secs(10);

/// Remove a group.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The group
    group: GroupName,
    /// Move its members to the host first
    #[arg(short, long)]
    force: bool,
}

impl RmArgs {
    /// Removes it.
    pub(crate) fn run(self, context: &Context) -> Result<(), CliError> {
        if self.group.is_host() {
            return Err(CliError::Usage("group 0 is the host itself and cannot be removed".into()));
        }
        let tree = context.tree()?;
        let compartment = tree.compartment(&self.group)?;
        if self.force {
            compartment.parts().try_for_each(|group| empty(&tree, group))?;
        }
        Ok(compartment.remove()?)
    }
}

/// Moves the members out, and those that they forked meanwhile.
fn empty(tree: &Tree, group: &Group) -> Result<(), CliError> {
    let host = tree.group_in(group.side(), &GroupName::host());
    let deadline = Instant::now() + FORCE_TIMEOUT;
    loop {
        let members = group.members()?;
        if members.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(CliError::Failed(format!("{} members of {} remain", members.len(), group.name())));
        }
        for pid in members {
            match tree.move_member(pid, group, &host) {
                Err(e) if e.is_gone() => {}
                other => other?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fake;

    #[test]
    fn force_moves_members_to_the_host() {
        let (_dir, tree) = fake::tree();
        let web = tree.group(&"web".parse().expect("a name"));

        empty(&tree, &web).expect("all can be moved");

        assert!(web.members().expect("readable").is_empty());
        assert_eq!(tree.group(&GroupName::host()).members().expect("readable"), [41, 42, 50]);
    }

    #[test]
    fn group_0_is_kept() {
        let (dir, _tree) = fake::tree();
        let context = Context { mount: Some(dir.path().to_owned()) };

        let result = RmArgs { group: GroupName::host(), force: true }.run(&context);

        assert!(matches!(result, Err(CliError::Usage(_))));
    }
}
