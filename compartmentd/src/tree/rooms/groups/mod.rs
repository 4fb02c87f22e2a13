//! A room of groups: the groups, their files, their members. What the files hold is for the kind of group to say: [`Shown`].

mod node;

use std::ffi::OsStr;
use std::sync::Arc;

pub(crate) use node::files;
pub use node::{Files, Node, TaskKey};

use crate::errno::{Refusal, Why, no_process};
use crate::groups::{Caller, Controller, Group, GroupId, Kind, Process};
use crate::tree::Inode;
use crate::tree::names::parse_pid;
use crate::tree::room::{Attr, Entry, Kind as EntryKind, Opened, Room};

/// What the files of groups of a kind hold.
pub trait Shown: Send + Sync + 'static {
    /// The kind.
    type Kind: Kind;
    /// The files of a group.
    type GroupFile: Files;
    /// The files of a process.
    type TaskFile: Files;

    /// The room's number.
    const ROOM: usize;

    /// Finds a directory of another room that stands among the groups.
    fn other(&self, _controller: &Controller<Self::Kind>, _name: &OsStr) -> Option<Inode> {
        None
    }

    /// Lists the directories of another room that stand among the groups.
    fn others(&self, _controller: &Controller<Self::Kind>) -> Vec<Entry> {
        Vec::new()
    }

    /// Reads a file of a group.
    ///
    /// # Errors
    /// Any.
    fn read_group(
        &self,
        controller: &Controller<Self::Kind>,
        group: &Group<Self::Kind>,
        file: Self::GroupFile,
    ) -> Result<String, Refusal>;

    /// Writes a file of a group.
    ///
    /// # Errors
    /// Any; then nothing has changed.
    fn write_group(
        &self,
        controller: &Controller<Self::Kind>,
        group: &Group<Self::Kind>,
        caller: &Caller,
        file: Self::GroupFile,
        value: &[u8],
    ) -> Result<(), Refusal>;

    /// Opens a file of a group.
    fn open_group(&self, _group: &Arc<Group<Self::Kind>>, _file: Self::GroupFile) -> Opened {
        Opened::Value
    }

    /// Reads a file of a process in a group.
    ///
    /// # Errors
    /// ESRCH if it is gone, and any other.
    fn read_task(
        &self,
        controller: &Controller<Self::Kind>,
        at: (&Process, GroupId),
        file: Self::TaskFile,
    ) -> Result<String, Refusal>;

    /// Writes a file of a process in a group.
    ///
    /// # Errors
    /// Any; then nothing has changed.
    fn write_task(
        &self,
        _controller: &Controller<Self::Kind>,
        _at: (&Process, GroupId),
        _caller: &Caller,
        _file: Self::TaskFile,
        _value: &[u8],
    ) -> Result<(), Refusal> {
        Err(Refusal::new(Why::NotAllowed, "this file cannot be written"))
    }

    /// Says whether writing a file of a group may take long; `None` is a move of a process.
    fn is_slow_change(&self, _file: Option<Self::GroupFile>) -> bool {
        false
    }

    /// Says whether reading a file of a process may take long.
    fn is_slow_read(&self, _file: Self::TaskFile) -> bool {
        false
    }

    /// Gives the permission bits of a process's file in a group.
    fn task_mode(&self, file: Self::TaskFile, _group: GroupId) -> u16 {
        file.mode()
    }
}

type NodeOf<S> = Node<<S as Shown>::GroupFile, <S as Shown>::TaskFile>;

/// The room.
#[derive(Debug)]
pub struct Groups<S: Shown> {
    controller: Arc<Controller<S::Kind>>,
    shown: S,
}

/// Lists the entries whose owner is a group's.
pub fn owned_by<S: Shown>(id: GroupId) -> impl Iterator<Item = Inode> {
    let files = S::GroupFile::ALL.iter().map(move |file| Node::GroupFile(id, *file));
    std::iter::once(Node::Group(id)).chain(files).map(inode::<S>)
}

/// Gives the inode of an entry.
pub fn inode<S: Shown>(node: NodeOf<S>) -> Inode {
    Inode::new(S::ROOM, node.encode())
}

fn missing<T>() -> Result<T, Refusal> {
    Err(Refusal::new(Why::Missing, "no such entry"))
}

fn decode<S: Shown>(number: u64) -> Result<NodeOf<S>, Refusal> {
    Node::decode(number).map_or_else(missing, Ok)
}

impl<S: Shown> Groups<S> {
    /// Shows the groups of a controller.
    pub fn new(controller: Arc<Controller<S::Kind>>, shown: S) -> Self {
        Self { controller, shown }
    }

    const DIR: &'static str = <S::Kind as Kind>::SIDE.dir();

    /// Finds the process of an entry and its group.
    fn task(&self, key: TaskKey) -> Result<(Process, GroupId), Refusal> {
        self.controller
            .locate(key.pid)
            .filter(|(process, _)| key.is(process))
            .ok_or_else(|| no_process(key.pid))
    }

    fn dir_group(&self, dir: u64) -> Result<GroupId, Refusal> {
        match decode::<S>(dir)? {
            Node::Group(id) => Ok(id),
            _ => Err(Refusal::new(Why::NotAllowed, "processes are moved between groups only")),
        }
    }

    fn lookup_in_group(&self, id: GroupId, name: &OsStr) -> Result<NodeOf<S>, Refusal> {
        if let Some(pid) = parse_pid(name) {
            return match self.controller.locate(pid) {
                Some((process, group)) if group == id => Ok(Node::Task(TaskKey::of(&process))),
                Some(_) => missing(),
                // A guest task is in the group of its application only.
                None if pid >= crate::tasks::pids::FIRST_PID => missing(),
                None => Err(no_process(pid)),
            };
        }
        match S::GroupFile::ALL.iter().find(|file| name == file.name()) {
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
            entries.extend(
                S::GroupFile::ALL.iter().map(|file| entry::<S>(file.name(), Node::GroupFile(id, *file))),
            );
        }
        let members = self.controller.members(id);
        entries.extend(members.iter().map(|p| entry::<S>(&p.pid.to_string(), Node::Task(TaskKey::of(p)))));
        Ok(entries)
    }
}

fn entry<S: Shown>(name: &str, node: NodeOf<S>) -> Entry {
    let kind = match node {
        Node::GroupFile(..) | Node::TaskFile(..) => EntryKind::File,
        _ => EntryKind::Directory,
    };
    Entry::new(name, inode::<S>(node), kind)
}

impl<S: Shown> Room for Groups<S> {
    fn stat(&self, node: u64) -> Result<Attr, Refusal> {
        let owner = |id| self.controller.group(id).map(|group| group.owner());
        Ok(match decode::<S>(node)? {
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
                Attr::file(self.shown.task_mode(file, group)).owned(self.controller.owner_of(&process))
            }
        })
    }

    fn is_slow(&self, node: u64, is_change: bool) -> bool {
        match NodeOf::<S>::decode(node) {
            Some(Node::Groups | Node::Group(_)) => is_change && self.shown.is_slow_change(None),
            Some(Node::GroupFile(_, file)) => is_change && self.shown.is_slow_change(Some(file)),
            Some(Node::TaskFile(_, file)) => !is_change && self.shown.is_slow_read(file),
            _ => false,
        }
    }

    fn path(&self, node: u64) -> String {
        let group = |id| format!("{}/{}", Self::DIR, self.controller.name_of(id));
        let task = |key: TaskKey| {
            let at = self.task(key).map_or_else(|_| format!("{}/?", Self::DIR), |(_, id)| group(id));
            format!("{at}/{}", key.pid)
        };
        match NodeOf::<S>::decode(node) {
            None | Some(Node::Groups) => Self::DIR.into(),
            Some(Node::Group(id)) => group(id),
            Some(Node::GroupFile(id, file)) => format!("{}/{}", group(id), file.name()),
            Some(Node::Task(key)) => task(key),
            Some(Node::TaskFile(key, file)) => format!("{}/{}", task(key), file.name()),
        }
    }

    fn lookup(&self, dir: u64, name: &OsStr) -> Result<Inode, Refusal> {
        let node = match decode::<S>(dir)? {
            Node::Groups if name == "0" => Node::Group(GroupId::HOST),
            Node::Groups => {
                let group = name.to_str().and_then(|name| self.controller.group_named(name));
                match group {
                    Some(group) => Node::Group(group.id),
                    None => return self.shown.other(&self.controller, name).map_or_else(missing, Ok),
                }
            }
            Node::Group(id) => self.lookup_in_group(id, name)?,
            Node::Task(key) => match S::TaskFile::ALL.iter().find(|file| name == file.name()) {
                Some(file) => Node::TaskFile(key, *file),
                None => return missing(),
            },
            _ => return missing(),
        };
        Ok(inode::<S>(node))
    }

    fn list(&self, dir: u64) -> Result<Vec<Entry>, Refusal> {
        match decode::<S>(dir)? {
            Node::Groups => {
                let groups = self.controller.groups();
                let host = entry::<S>("0", Node::Group(GroupId::HOST));
                let others = groups.iter().map(|group| entry::<S>(&group.name, Node::Group(group.id)));
                let beside = self.shown.others(&self.controller);
                Ok(std::iter::once(host).chain(others).chain(beside).collect())
            }
            Node::Group(id) => self.list_group(id),
            Node::Task(key) => {
                self.task(key)?;
                Ok(S::TaskFile::ALL
                    .iter()
                    .map(|file| entry::<S>(file.name(), Node::TaskFile(key, *file)))
                    .collect())
            }
            _ => missing(),
        }
    }

    fn open(&self, file: u64, _caller: &Caller) -> Result<Opened, Refusal> {
        match decode::<S>(file)? {
            Node::GroupFile(id, file) => Ok(self.shown.open_group(&self.controller.group(id)?, file)),
            _ => Ok(Opened::Value),
        }
    }

    fn read(&self, file: u64, _caller: &Caller) -> Result<String, Refusal> {
        match decode::<S>(file)? {
            Node::GroupFile(id, file) => {
                self.shown.read_group(&self.controller, &*self.controller.group(id)?, file)
            }
            Node::TaskFile(key, file) => {
                let (process, group) = self.task(key)?;
                self.shown.read_task(&self.controller, (&process, group), file)
            }
            _ => missing(),
        }
    }

    fn write(&self, file: u64, caller: &Caller, value: &[u8]) -> Result<(), Refusal> {
        match decode::<S>(file)? {
            Node::GroupFile(id, file) => {
                self.shown.write_group(&self.controller, &*self.controller.group(id)?, caller, file, value)
            }
            Node::TaskFile(key, file) => {
                let (process, group) = self.task(key)?;
                self.shown.write_task(&self.controller, (&process, group), caller, file, value)
            }
            _ => missing(),
        }
    }

    fn mkdir(&self, dir: u64, name: &OsStr, caller: &Caller) -> Result<Inode, Refusal> {
        if decode::<S>(dir)? != Node::Groups {
            let nests = if S::Kind::NESTS { "; to nest one, move its representative" } else { "" };
            let why = format!("groups are made in {}/{nests}", Self::DIR);
            return Err(Refusal::new(Why::NotAllowed, why));
        }
        Ok(inode::<S>(Node::Group(self.controller.create(caller, name)?.id)))
    }

    fn rmdir(&self, dir: u64, name: &OsStr, caller: &Caller) -> Result<(), Refusal> {
        match (decode::<S>(dir)?, name.to_str()) {
            (Node::Groups, Some("0")) => Err(Refusal::new(Why::NotAllowed, "group 0 is the host's")),
            (Node::Groups, Some(_)) if self.shown.other(&self.controller, name).is_some() => {
                Err(Refusal::new(Why::Unsupported, "an application's group goes with the application"))
            }
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
        match decode::<S>(node)? {
            Node::Group(id) if id != GroupId::HOST => self.controller.chown(caller, id, uid, gid),
            _ => Err(Refusal::new(Why::NotAllowed, "only a group has an owner of its own")),
        }
    }
}
