//! All groups and the index from processes to groups.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::GROUPS_MAX;
use super::group::{Group, GroupId};
use super::kind::Kind;
use crate::errno::{Refusal, Why};

/// A process in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Membership {
    pub(super) start_time: u64,
    pub(super) group: GroupId,
}

#[derive(Debug)]
pub(super) struct Tables<K: Kind> {
    groups: BTreeMap<GroupId, Arc<Group<K>>>,
    names: HashMap<String, GroupId>,
    members: HashMap<i32, Membership>,
    of_group: HashMap<GroupId, BTreeSet<i32>>,
    last_id: u32,
}

impl<K: Kind> Default for Tables<K> {
    fn default() -> Self {
        Self {
            groups: BTreeMap::new(),
            names: HashMap::new(),
            members: HashMap::new(),
            of_group: HashMap::new(),
            last_id: 0,
        }
    }
}

impl<K: Kind> Tables<K> {
    /// Adds the group that `make` makes of a new number.
    pub(super) fn add_group(
        &mut self,
        name: &str,
        make: impl FnOnce(GroupId) -> Group<K>,
    ) -> Result<Arc<Group<K>>, Refusal> {
        if self.names.contains_key(name) {
            return Err(Refusal::new(Why::Exists, format!("there is a group {name} already")));
        }
        if self.groups.len() >= GROUPS_MAX {
            return Err(Refusal::new(
                Why::Full,
                format!("there are {GROUPS_MAX} groups, which is the limit"),
            ));
        }
        self.last_id += 1;
        let id = GroupId(self.last_id);
        let group = Arc::new(make(id));
        self.names.insert(name.to_owned(), id);
        self.groups.insert(id, group.clone());
        Ok(group)
    }

    /// Removes a group; gives the processes that the index still had in it.
    pub(super) fn remove_group(&mut self, id: GroupId) -> Vec<i32> {
        if let Some(group) = self.groups.remove(&id) {
            self.names.remove(&group.name);
        }
        let pids: Vec<i32> = self.of_group.remove(&id).unwrap_or_default().into_iter().collect();
        for pid in &pids {
            self.members.remove(pid);
        }
        pids
    }

    pub(super) fn group(&self, id: GroupId) -> Option<Arc<Group<K>>> {
        self.groups.get(&id).cloned()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<Arc<Group<K>>> {
        self.group(*self.names.get(name)?)
    }

    pub(super) fn groups(&self) -> Vec<Arc<Group<K>>> {
        self.groups.values().cloned().collect()
    }

    /// Puts a process into a group, out of the one it was in.
    pub(super) fn put(&mut self, pid: i32, start_time: u64, group: GroupId) {
        self.take(pid);
        if group != GroupId::HOST {
            self.members.insert(pid, Membership { start_time, group });
            self.of_group.entry(group).or_default().insert(pid);
        }
    }

    /// Takes a process out of its group.
    pub(super) fn take(&mut self, pid: i32) -> Option<GroupId> {
        let Membership { group, .. } = self.members.remove(&pid)?;
        if let Some(pids) = self.of_group.get_mut(&group) {
            pids.remove(&pid);
            if pids.is_empty() {
                self.of_group.remove(&group);
            }
        }
        Some(group)
    }

    pub(super) fn membership(&self, pid: i32) -> Option<Membership> {
        self.members.get(&pid).copied()
    }

    pub(super) fn pids(&self, group: GroupId) -> Vec<i32> {
        self.of_group.get(&group).map_or_else(Vec::new, |pids| pids.iter().copied().collect())
    }

    pub(super) fn members(&self) -> &HashMap<i32, Membership> {
        &self.members
    }
}
