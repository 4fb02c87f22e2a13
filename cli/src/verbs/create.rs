//! `create`: a lasting compartment with its settings, or none at all.

use clap::Args;

use super::settings::Settings;
use crate::args::Context;
use crate::exit::CliError;
use crate::tree::{Compartment, Group, GroupName, Side, Tree, TreeError};

/// Make a lasting group.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name; not all digits
    name: GroupName,
    #[command(flatten)]
    settings: Settings,
}

impl CreateArgs {
    /// Makes the group.
    pub(crate) fn run(self, context: &Context) -> Result<(), CliError> {
        make(&context.tree()?, &self.name, &self.settings)?;
        Ok(())
    }
}

/// Makes the groups of a name and sets them up; if anything is refused, they are removed again.
pub(super) fn make(tree: &Tree, name: &GroupName, settings: &Settings) -> Result<Compartment, TreeError> {
    let mut made: Vec<Group> = Vec::new();
    for side in settings.sides() {
        let result = tree.make_group(side, name).and_then(|group| {
            made.push(group.clone());
            settings.apply(&group)
        });
        if let Err(e) = result {
            for group in &made {
                let _ = group.remove();
            }
            return Err(e);
        }
    }
    let find = |side| made.iter().find(|group| group.side() == side).cloned();
    Ok(Compartment::new(name.clone(), find(Side::Sched), find(Side::Mem)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fake;

    #[test]
    fn group_whose_setting_is_refused_is_gone() {
        // The fake tree makes no attributes for a new directory, so every write is refused.
        let (dir, tree) = fake::tree();
        fake::mem_group(dir.path(), "other");
        let name: GroupName = "new".parse().expect("a name");
        let settings = Settings { nice: Some(3), ..Settings::default() };

        assert!(make(&tree, &name, &settings).is_err());
        assert!(!tree.group(&name).exists().expect("can be told"));
        let memory = Settings { memory: Some("64M".into()), ..settings };
        assert!(make(&tree, &name, &memory).is_err());
        assert!(matches!(tree.compartment(&name), Err(TreeError::NoGroup(_))), "neither half");
        make(&tree, &name, &Settings::default()).expect("nothing to refuse");
        assert!(make(&tree, &name, &Settings::default()).is_err(), "exists already");
    }
}
