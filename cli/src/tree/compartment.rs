//! What one name stands for in both halves of the tree: a sched_group, a mem_group, or both.

use std::collections::BTreeSet;

use super::{Group, GroupName, Side, Tree, TreeError};

/// The groups with one name, at least one of them.
#[derive(Clone, Debug)]
pub(crate) struct Compartment {
    name: GroupName,
    sched: Option<Group>,
    mem: Option<Group>,
}

impl Compartment {
    /// Puts it together of groups with that name.
    pub(crate) fn new(name: GroupName, sched: Option<Group>, mem: Option<Group>) -> Self {
        Self { name, sched, mem }
    }

    /// Gives the name.
    pub(crate) fn name(&self) -> &GroupName {
        &self.name
    }

    /// Gives the sched_group.
    pub(crate) fn sched(&self) -> Option<&Group> {
        self.sched.as_ref()
    }

    /// Gives the mem_group.
    pub(crate) fn mem(&self) -> Option<&Group> {
        self.mem.as_ref()
    }

    /// Gives the groups, the mem_group first: joining it takes the longest and is refused the soonest, and its worker
    /// has less to do with a process that no guest scheduler parks yet.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Group> {
        self.mem.iter().chain(&self.sched)
    }

    /// Lists the members of either group in order of their number.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub(crate) fn members(&self) -> Result<Vec<i32>, TreeError> {
        let mut pids = BTreeSet::new();
        for group in self.parts() {
            pids.extend(group.members()?);
        }
        Ok(pids.into_iter().collect())
    }

    /// Moves a process into each of its groups, out of whichever it was in. If one is refused, it is where it was.
    ///
    /// # Errors
    /// [`TreeError::NoTask`], [`TreeError::Io`] with the tree's reason.
    pub(crate) fn take_in(&self, tree: &Tree, pid: i32) -> Result<(), TreeError> {
        let mut done: Vec<(Group, &Group)> = Vec::new();
        for to in self.parts().filter(|group| !group.has_member(pid)) {
            let from = tree.group_of(to.side(), pid);
            match from.and_then(|from| tree.move_member(pid, &from, to).map(|()| from)) {
                Ok(from) => done.push((from, to)),
                Err(e) => {
                    for (from, to) in done.iter().rev() {
                        if let Err(e) = tree.move_member(pid, to, from) {
                            eprintln!("compartment: cannot undo: {e}");
                        }
                    }
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Removes the groups, which must be empty.
    ///
    /// # Errors
    /// [`TreeError::Io`] with the tree's reason.
    pub(crate) fn remove(&self) -> Result<(), TreeError> {
        self.parts().try_for_each(Group::remove)
    }
}

impl Tree {
    /// Gives what exists under a name.
    ///
    /// # Errors
    /// [`TreeError::NoGroup`] if nothing does, [`TreeError::Io`].
    pub(crate) fn compartment(&self, name: &GroupName) -> Result<Compartment, TreeError> {
        let part = |side| {
            let group = self.group_in(side, name);
            Ok::<_, TreeError>(group.exists()?.then_some(group))
        };
        let (sched, mem) = (part(Side::Sched)?, part(Side::Mem)?);
        if sched.is_none() && mem.is_none() {
            return Err(TreeError::NoGroup(name.clone()));
        }
        Ok(Compartment::new(name.clone(), sched, mem))
    }

    /// Lists what exists under any name but 0, by name.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub(crate) fn compartments(&self) -> Result<Vec<Compartment>, TreeError> {
        let mut names = BTreeSet::new();
        for side in [Side::Sched, Side::Mem] {
            names.extend(self.groups(side)?.into_iter().map(|group| group.name().clone()));
        }
        let mut all = Vec::new();
        for name in names {
            match self.compartment(&name) {
                // Removed meanwhile.
                Err(TreeError::NoGroup(_)) => {}
                other => all.push(other?),
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fake;

    fn name(text: &str) -> GroupName {
        text.parse().expect("a name")
    }

    #[test]
    fn name_stands_for_what_exists() {
        let (dir, tree) = fake::tree();
        fake::mem_group(dir.path(), "pool");
        fake::mem_group(dir.path(), "web");

        let all = tree.compartments().expect("readable");
        let shown: Vec<_> =
            all.iter().map(|c| (c.name().to_string(), c.sched().is_some(), c.mem().is_some())).collect();

        assert_eq!(shown, [("pool".into(), false, true), ("web".into(), true, true)]);
        assert!(matches!(tree.compartment(&name("none")), Err(TreeError::NoGroup(_))));
    }

    #[test]
    fn process_taken_in_is_in_both_or_where_it_was() {
        let (dir, tree) = fake::tree();
        fake::mem_group(dir.path(), "0");
        fake::mem_group(dir.path(), "web");
        fake::mem_member(dir.path(), "0", 50);
        let web = tree.compartment(&name("web")).expect("exists");

        web.take_in(&tree, 50).expect("two renames");
        assert!(web.parts().all(|group| group.has_member(50)));

        // Only the memory half knows this one, so that the other half refuses.
        fake::mem_member(dir.path(), "0", 60);
        assert!(web.take_in(&tree, 60).is_err());
        assert!(tree.group_in(Side::Mem, &GroupName::host()).has_member(60));
    }
}
