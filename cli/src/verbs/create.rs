//! `create`: a lasting group with its settings, or none at all.

use clap::Args;

use super::settings::Settings;
use crate::args::Context;
use crate::exit::CliError;
use crate::tree::{Group, GroupName, Tree, TreeError};

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

/// Makes a group and sets it up; if a setting is refused, the group is removed again.
pub(super) fn make(tree: &Tree, name: &GroupName, settings: &Settings) -> Result<Group, TreeError> {
    let group = tree.make_group(name)?;
    if let Err(e) = settings.apply(&group) {
        let _ = group.remove();
        return Err(e);
    }
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fake;

    #[test]
    fn group_whose_setting_is_refused_is_gone() {
        // The fake tree makes no attributes for a new directory, so every write is refused.
        let (_dir, tree) = fake::tree();
        let name: GroupName = "new".parse().expect("a name");
        let settings = Settings { nice: Some(3), ..Settings::default() };

        assert!(make(&tree, &name, &settings).is_err());
        assert!(!tree.group(&name).exists().expect("can be told"));
        make(&tree, &name, &Settings::default()).expect("nothing to refuse");
        assert!(make(&tree, &name, &Settings::default()).is_err(), "exists already");
    }
}
