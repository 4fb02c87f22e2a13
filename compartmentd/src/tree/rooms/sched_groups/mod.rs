//! `sched-groups/`: groups, their files, their members.

mod group_files;
mod node;
mod task_files;

use std::ffi::OsStr;
use std::sync::Arc;

pub use node::{GroupFile, Node, TaskFile, TaskKey};

use super::SCHED_GROUPS;
use crate::errno::{Refusal, Why, no_process};
use crate::groups::{Caller, Controller, GroupId, Process};
use crate::tree::Inode;
use crate::tree::names::parse_pid;
use crate::tree::room::{Attr, Entry, Kind, Room};

/// The room.
#[derive(Debug)]
pub(super) struct SchedGroups {
    controller: Arc<Controller>,
}

/// Lists the entries whose owner is a group's.
pub(super) fn owned_by(id: GroupId) -> impl Iterator<Item = Node> {
    let files = GroupFile::ALL.iter().map(move |file| Node::GroupFile(id, *file));
    std::iter::once(Node::Group(id)).chain(files)
}

fn inode(node: Node) -> Inode {
    Inode::new(SCHED_GROUPS, node.encode())
}

fn missing<T>() -> Result<T, Refusal> {
    Err(Refusal::new(Why::Missing, "no such entry"))
}

fn decode(number: u64) -> Result<Node, Refusal> {
    Node::decode(number).map_or_else(missing, Ok)
}

impl SchedGroups {
    pub(super) fn new(controller: Arc<Controller>) -> Self {
        Self { controller }
    }

    /// Finds the process of an entry and its group.
    fn task(&self, key: TaskKey) -> Result<(Process, GroupId), Refusal> {
        self.controller
            .locate(key.pid)
            .filter(|(process, _)| key.is(process))
            .ok_or_else(|| no_process(key.pid))
    }

    fn dir_group(&self, dir: u64) -> Result<GroupId, Refusal> {
        match decode(dir)? {
            Node::Group(id) => Ok(id),
            _ => Err(Refusal::new(Why::NotAllowed, "processes are moved between groups only")),
        }
    }

    fn lookup_in_group(&self, id: GroupId, name: &OsStr) -> Result<Node, Refusal> {
        if let Some(pid) = parse_pid(name) {
            return match self.controller.locate(pid) {
                Some((process, group)) if group == id => Ok(Node::Task(TaskKey::of(&process))),
                _ => missing(),
            };
        }
        match GroupFile::ALL.iter().find(|file| name == file.name()) {
            Some(file) if id != GroupId::HOST => {
                self.controller.group(id).map(|_| Node::GroupFile(id, *file))
            }
            _ => missing(),
        }
    }

    fn list_group(&self, id: GroupId) -> Result<Vec<Entry>, Refusal> {
        let mut entries = Vec::new();
        if id != GroupId::HOST {
            self.controller.group(id)?;
            entries.extend(GroupFile::ALL.iter().map(|file| entry(file.name(), Node::GroupFile(id, *file))));
        }
        let members = self.controller.members(id);
        entries.extend(members.iter().map(|p| entry(&p.pid.to_string(), Node::Task(TaskKey::of(p)))));
        Ok(entries)
    }
}

fn entry(name: &str, node: Node) -> Entry {
    let kind = match node {
        Node::GroupFile(..) | Node::TaskFile(..) => Kind::File,
        _ => Kind::Directory,
    };
    Entry { name: name.to_owned(), inode: inode(node), kind }
}

impl Room for SchedGroups {
    fn stat(&self, node: u64) -> Result<Attr, Refusal> {
        let owner = |id| self.controller.group(id).map(|group| group.owner());
        Ok(match decode(node)? {
            // Whoever has an account makes groups; the sticky bit lets only the owner remove them.
            Node::Groups | Node::Group(GroupId::HOST) => Attr::dir(0o1777),
            Node::Group(id) => Attr::dir(0o755).owned(owner(id)?),
            Node::GroupFile(id, file) => Attr::file(file.mode()).owned(owner(id)?),
            Node::Task(key) => {
                let (process, _) = self.task(key).or_else(|_| missing())?;
                Attr::dir(0o755).owned(self.controller.owner_of(&process))
            }
            Node::TaskFile(key, file) => {
                let (process, group) = self.task(key).or_else(|_| missing())?;
                // The host's policies are not ours to set.
                let mode =
                    if (file, group) == (TaskFile::Policy, GroupId::HOST) { 0o444 } else { file.mode() };
                Attr::file(mode).owned(self.controller.owner_of(&process))
            }
        })
    }

    fn path(&self, node: u64) -> String {
        let group = |id| format!("sched-groups/{}", self.controller.name_of(id));
        let task = |key: TaskKey| {
            let at = self.task(key).map_or_else(|_| "sched-groups/?".into(), |(_, id)| group(id));
            format!("{at}/{}", key.pid)
        };
        match Node::decode(node) {
            None | Some(Node::Groups) => "sched-groups".into(),
            Some(Node::Group(id)) => group(id),
            Some(Node::GroupFile(id, file)) => format!("{}/{}", group(id), file.name()),
            Some(Node::Task(key)) => task(key),
            Some(Node::TaskFile(key, file)) => format!("{}/{}", task(key), file.name()),
        }
    }

    fn lookup(&self, dir: u64, name: &OsStr) -> Result<Inode, Refusal> {
        let node = match decode(dir)? {
            Node::Groups if name == "0" => Node::Group(GroupId::HOST),
            Node::Groups => {
                let group = name.to_str().and_then(|name| self.controller.group_named(name));
                group.map_or_else(missing, |group| Ok(Node::Group(group.id)))?
            }
            Node::Group(id) => self.lookup_in_group(id, name)?,
            Node::Task(key) => match TaskFile::ALL.iter().find(|file| name == file.name()) {
                Some(file) => Node::TaskFile(key, *file),
                None => return missing(),
            },
            _ => return missing(),
        };
        Ok(inode(node))
    }

    fn list(&self, dir: u64) -> Result<Vec<Entry>, Refusal> {
        match decode(dir)? {
            Node::Groups => {
                let groups = self.controller.groups();
                let host = entry("0", Node::Group(GroupId::HOST));
                let others = groups.iter().map(|group| entry(&group.name, Node::Group(group.id)));
                Ok(std::iter::once(host).chain(others).collect())
            }
            Node::Group(id) => self.list_group(id),
            Node::Task(key) => {
                self.task(key)?;
                Ok(TaskFile::ALL.iter().map(|file| entry(file.name(), Node::TaskFile(key, *file))).collect())
            }
            _ => missing(),
        }
    }

    fn read(&self, file: u64, _caller: &Caller) -> Result<String, Refusal> {
        match decode(file)? {
            Node::GroupFile(id, file) => group_files::read(&*self.controller.group(id)?, file),
            Node::TaskFile(key, file) => {
                let (process, group) = self.task(key)?;
                task_files::read(&self.controller, &process, group, file)
            }
            _ => missing(),
        }
    }

    fn write(&self, file: u64, caller: &Caller, value: &[u8]) -> Result<(), Refusal> {
        match decode(file)? {
            Node::GroupFile(id, file) => {
                group_files::write(&self.controller, &*self.controller.group(id)?, caller, file, value)
            }
            Node::TaskFile(key, file) => {
                let (process, group) = self.task(key)?;
                task_files::write(&self.controller, &process, group, caller, file, value)
            }
            _ => missing(),
        }
    }

    fn mkdir(&self, dir: u64, name: &OsStr, caller: &Caller) -> Result<Inode, Refusal> {
        if decode(dir)? != Node::Groups {
            let why = "groups are made in sched-groups/; to nest one, move its representative";
            return Err(Refusal::new(Why::NotAllowed, why));
        }
        Ok(inode(Node::Group(self.controller.create(caller, name)?.id)))
    }

    fn rmdir(&self, dir: u64, name: &OsStr, caller: &Caller) -> Result<(), Refusal> {
        match (decode(dir)?, name.to_str()) {
            (Node::Groups, Some("0")) => Err(Refusal::new(Why::NotAllowed, "group 0 is the host's")),
            (Node::Groups, Some(name)) => self.controller.remove(caller, name),
            _ => Err(Refusal::new(Why::NotAllowed, "processes are moved out of a group, not removed")),
        }
    }

    fn rename(&self, caller: &Caller, from: u64, to: u64, name: &OsStr) -> Result<(), Refusal> {
        let (from, to) = (self.dir_group(from)?, self.dir_group(to)?);
        let pid = parse_pid(name).ok_or_else(|| Refusal::new(Why::NotAllowed, "only processes are moved"))?;
        self.controller.move_process(caller, pid, from, to)
    }

    fn chown(&self, node: u64, caller: &Caller, uid: Option<u32>, gid: Option<u32>) -> Result<(), Refusal> {
        match decode(node)? {
            Node::Group(id) if id != GroupId::HOST => self.controller.chown(caller, id, uid, gid),
            _ => Err(Refusal::new(Why::NotAllowed, "only a group has an owner of its own")),
        }
    }
}

#[cfg(test)]
mod tests;
