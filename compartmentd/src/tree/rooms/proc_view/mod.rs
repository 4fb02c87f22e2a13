//! `proc/`: the host's `/proc` with the guest tasks in it, to be bound over `/proc` (`compartment enter`).
//!
//! What is the host's stays the host's: a process's directory is one of ours, and what is in it are links into the real `/proc`, which checks
//! who may see what. So are all files that are no process's. Only directories are ours, because programs insist on directories
//! (`O_NOFOLLOW`), and what is about guest tasks (`guest`).
//!
//! Where the links lead is the same path in every mount namespace ([`place`]): on the host a link to `/proc`, in an entered one the
//! host's `/proc` itself.
//!
//! # Cost
//! Links keep their text and are remembered for as long as their directory is, so that a second `ps` asks for a list only, which comes with what
//! `stat` shows. Links whose text is another one by time or caller get a new number each time they are looked up (`Node::Own`,
//! `Node::Place`). What ends is told to the kernel (`ends`).

mod ends;
mod guest;
mod host;
mod node;
pub mod place;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::{PROC, guest_tasks};
use crate::errno::{Refusal, Why};
use crate::groups::Caller;
use crate::notices::{Notice, Notices};
use crate::tasks::{FIRST_PID, Found, Guests};
use crate::tree::Inode;
use crate::tree::names::parse_pid;
use crate::tree::room::{Attr, Entry, Kind, Room, TTL};
use ends::Ends;
use guest::{CONTROLS, Content, FILES, Task};
use host::Names;
use node::{Node, Place};

/// For how long links are remembered whose text never changes: they go with their directory.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// The longest text of a link that is not known beforehand.
const LINK_MAX: u64 = 4_095;

/// The room.
pub(super) struct ProcView {
    guests: Arc<Guests>,
    notices: Notices,
    /// Where the host's `/proc` is found.
    real: String,
    names: Names,
    turn: AtomicU32,
    ends: Arc<Ends>,
    /// Guest tasks that were listed last.
    listed: Mutex<HashSet<i32>>,
}

/// The inode of the room's directory.
pub(super) const DOOR: Inode = Inode::new(PROC, Node::Root.encode());

const fn inode(node: Node) -> Inode {
    Inode::new(PROC, node.encode())
}

/// What the kernel must forget when a process or task has ended.
pub(super) fn entry_of(pid: i32) -> (Inode, String) {
    (DOOR, pid.to_string())
}

fn missing<T>() -> Result<T, Refusal> {
    Err(Refusal::new(Why::Missing, "no such entry"))
}

fn position<T>(all: &[T], is_it: impl Fn(&T) -> bool) -> Option<u8> {
    all.iter().position(is_it).and_then(|at| u8::try_from(at).ok())
}

impl ProcView {
    /// Makes the room. `real` is the path at which the host's `/proc` is found by whoever looks.
    ///
    /// # Errors
    /// Those of [`Ends::watch`].
    pub(super) fn new(guests: Arc<Guests>, notices: Notices, real: &Path) -> io::Result<Self> {
        Ok(Self {
            guests,
            ends: Ends::watch(notices.clone())?,
            notices,
            real: real.to_string_lossy().into_owned(),
            names: Names::of_host(),
            turn: AtomicU32::new(0),
            listed: Mutex::default(),
        })
    }

    fn turn(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed) & 0x003f_ffff
    }

    fn found(&self, pid: i32) -> Result<Found, Refusal> {
        self.guests.find(pid).or_else(|_| missing())
    }

    /// The text of a link that is always the same.
    fn fixed_link(&self, node: Node) -> Option<String> {
        let real = &self.real;
        Some(match node {
            Node::Other(number) => format!("{real}/{}", self.names.other(number)?),
            Node::ProcessFile(pid, file) => format!("{real}/{pid}/{}", self.names.of_process(file)?),
            Node::ThreadFile(pid, tid, file) => {
                format!("{real}/{pid}/task/{tid}/{}", self.names.of_thread(file)?)
            }
            Node::GuestFile(_, file) | Node::GuestThreadFile(_, file) => {
                matches!(FILES.get(usize::from(file))?.2, Content::Top).then(|| "/".to_owned())?
            }
            _ => return None,
        })
    }

    fn attr(&self, node: Node) -> Result<Attr, Refusal> {
        if let Some(text) = self.fixed_link(node) {
            return Ok(Attr::link(text.len() as u64));
        }
        let dir = Attr::dir(0o555);
        match node {
            Node::Root => Ok(dir),
            Node::Own(_) | Node::OwnThread(_) | Node::Place(..) => Ok(Attr::link(LINK_MAX)),
            Node::Process(pid) | Node::Tasks(pid) => {
                host::owner(&format!("/proc/{pid}")).map_or_else(missing, |owner| Ok(dir.owned(owner)))
            }
            Node::Thread(pid, tid) => host::owner(&format!("/proc/{pid}/task/{tid}"))
                .map_or_else(missing, |owner| Ok(dir.owned(owner))),
            Node::Guest(pid) | Node::GuestTasks(pid) | Node::GuestThread(pid) => {
                let app = self.found(pid)?.app();
                Ok(dir.owned((app.uid, app.gid)))
            }
            Node::GuestFile(pid, file) | Node::GuestThreadFile(pid, file) => {
                let app = self.found(pid)?.app();
                let Some((_, mode, content)) = FILES.get(usize::from(file)) else { return missing() };
                let attr = match content {
                    Content::NoEntries => Attr::dir(*mode),
                    _ => Attr::file(*mode),
                };
                Ok(attr.owned((app.uid, app.gid)))
            }
            Node::Other(_) | Node::ProcessFile(..) | Node::ThreadFile(..) => missing(),
        }
    }

    fn find(&self, dir: Node, name: &str) -> Option<Inode> {
        let file_of_guest = || position(&FILES, |file| file.0 == name);
        let pid = parse_pid(OsStr::new(name));
        Some(inode(match (dir, pid) {
            (Node::Root, Some(pid)) if pid >= FIRST_PID => self.found(pid).ok().map(|_| Node::Guest(pid))?,
            (Node::Root, Some(pid)) => Node::Process(pid),
            (Node::Root, None) => match name {
                "self" => Node::Own(self.turn()),
                "thread-self" => Node::OwnThread(self.turn()),
                _ => Node::Other(self.names.find_other(name)?),
            },
            (Node::Process(pid), _) if name == "task" => Node::Tasks(pid),
            (Node::Process(pid), _) => match Place::named(name) {
                Some(place) => Node::Place(pid, place, self.turn()),
                None => Node::ProcessFile(pid, self.names.find_of_process(name)?),
            },
            (Node::Tasks(pid), Some(tid)) if tid < FIRST_PID => Node::Thread(pid, tid),
            (Node::Thread(pid, tid), _) => Node::ThreadFile(pid, tid, self.names.find_of_thread(name)?),
            (Node::Guest(pid), _) if name == "task" => Node::GuestTasks(pid),
            (Node::Guest(pid), _) if CONTROLS.contains(&name) => return guest_tasks::control(pid, name),
            (Node::Guest(pid), _) => Node::GuestFile(pid, file_of_guest()?),
            (Node::GuestTasks(pid), Some(tid)) if tid == pid => Node::GuestThread(pid),
            (Node::GuestThread(pid), _) => Node::GuestThreadFile(pid, file_of_guest()?),
            _ => return None,
        }))
    }

    fn entry(&self, name: impl Into<String>, node: Node, attr: Attr) -> Entry {
        Entry { attr: Some(attr), ..Entry::new(name, inode(node), attr.kind) }
    }

    fn list_all(&self) -> Result<Vec<Entry>, Refusal> {
        let (pids, others) = host::list()?;
        let dir = Attr::dir(0o555);
        let mut entries = Vec::with_capacity(pids.len() + others.len() + 16);
        for name in &others {
            match name.as_str() {
                // Their text depends on who looks: not told with the list.
                "self" | "thread-self" => entries.push(Entry::new(name, inode(Node::Own(0)), Kind::Link)),
                _ => {
                    let node = self.names.find_other(name).map(Node::Other);
                    if let Some((node, text)) = node.and_then(|node| Some((node, self.fixed_link(node)?))) {
                        entries.push(self.entry(name, node, Attr::link(text.len() as u64)));
                    }
                }
            }
        }
        for pid in pids {
            if let Some(owner) = host::owner(&format!("/proc/{pid}")) {
                entries.push(self.entry(pid.to_string(), Node::Process(pid), dir.owned(owner)));
            }
        }
        let mut listed = HashSet::new();
        for app in self.guests.apps() {
            for pid in self.guests.list(app.pid) {
                entries.push(self.entry(pid.to_string(), Node::Guest(pid), dir.owned((app.uid, app.gid))));
                listed.insert(pid);
            }
        }
        let before = std::mem::replace(&mut *self.listed.lock(), listed.clone());
        before.difference(&listed).for_each(|pid| self.notices.post(Notice::Ended(*pid)));
        Ok(entries)
    }

    fn read_guest(&self, pid: i32, file: u8) -> Result<String, Refusal> {
        let found = self.guests.find(pid)?;
        let Some((_, _, content)) = FILES.get(usize::from(file)) else { return missing() };
        match content {
            Content::Text(text) => Ok(text(&Task::new(&self.guests, pid, found))),
            Content::Application(name) => host::read(found.app().pid, name),
            Content::Empty => Ok(String::new()),
            Content::NoEntries | Content::Top => missing(),
        }
    }

    fn entries_of_guest(&self, pid: i32, is_thread: bool) -> Result<Vec<Entry>, Refusal> {
        self.found(pid)?;
        let file = |(at, (name, _, content)): (u8, &(&str, u16, Content))| {
            let node = if is_thread { Node::GuestThreadFile(pid, at) } else { Node::GuestFile(pid, at) };
            let kind = match content {
                Content::NoEntries => Kind::Directory,
                Content::Top => Kind::Link,
                _ => Kind::File,
            };
            Entry::new(*name, inode(node), kind)
        };
        let mut entries: Vec<Entry> = (0..).zip(&FILES).map(file).collect();
        if !is_thread {
            entries.push(Entry::new("task", inode(Node::GuestTasks(pid)), Kind::Directory));
            let control = |name: &&str| Some(Entry::new(*name, guest_tasks::control(pid, name)?, Kind::File));
            entries.extend(CONTROLS.iter().filter_map(control));
        }
        Ok(entries)
    }
}

impl Room for ProcView {
    fn stat(&self, node: u64) -> Result<Attr, Refusal> {
        Node::decode(node).map_or_else(missing, |node| self.attr(node))
    }

    fn ttl(&self, node: u64) -> Duration {
        match Node::decode(node) {
            Some(Node::Own(_) | Node::OwnThread(_) | Node::Place(..)) | None => Duration::ZERO,
            Some(Node::Process(pid)) => self.ends.given(pid),
            Some(Node::ProcessFile(..) | Node::ThreadFile(..)) => LONG,
            Some(_) => TTL,
        }
    }

    fn missing_ttl(&self, dir: u64) -> Duration {
        match Node::decode(dir) {
            // They all have the same files, always.
            Some(Node::Process(_) | Node::Thread(..) | Node::Guest(_) | Node::GuestThread(_)) => LONG,
            _ => Duration::ZERO,
        }
    }

    fn path(&self, node: u64) -> String {
        match Node::decode(node) {
            Some(Node::Root) => "proc".into(),
            Some(Node::Guest(pid)) => format!("proc/{pid}"),
            Some(Node::GuestFile(pid, file)) => {
                format!("proc/{pid}/{}", FILES.get(usize::from(file)).map_or("?", |file| file.0))
            }
            Some(Node::Process(pid) | Node::ProcessFile(pid, _) | Node::Tasks(pid)) => format!("proc/{pid}"),
            _ => "proc/?".into(),
        }
    }

    fn lookup(&self, dir: u64, name: &OsStr) -> Result<Inode, Refusal> {
        let found = Node::decode(dir).and_then(|dir| self.find(dir, name.to_str()?));
        found.map_or_else(missing, Ok)
    }

    fn list(&self, dir: u64) -> Result<Vec<Entry>, Refusal> {
        let node = Node::decode(dir);
        let link = |name: &String, node| Entry::new(name, inode(node), Kind::Link);
        match node {
            Some(Node::Root) => self.list_all(),
            Some(Node::Process(pid)) => {
                let files = (0..).zip(self.names.process()).map(|(at, name)| {
                    link(
                        name,
                        Place::named(name).map_or(Node::ProcessFile(pid, at), |p| Node::Place(pid, p, 0)),
                    )
                });
                let task = Entry::new("task", inode(Node::Tasks(pid)), Kind::Directory);
                Ok(files.filter(|entry| entry.name != "task").chain([task]).collect())
            }
            Some(Node::Tasks(pid)) => {
                let tids = host_sys::process::threads(pid).or_else(|_| missing())?;
                let thread =
                    |tid: i32| Entry::new(tid.to_string(), inode(Node::Thread(pid, tid)), Kind::Directory);
                Ok(tids.into_iter().map(thread).collect())
            }
            Some(Node::Thread(pid, tid)) => {
                let files = (0..).zip(self.names.thread());
                Ok(files.map(|(at, name)| link(name, Node::ThreadFile(pid, tid, at))).collect())
            }
            Some(Node::Guest(pid)) => self.entries_of_guest(pid, false),
            Some(Node::GuestThread(pid)) => self.entries_of_guest(pid, true),
            Some(Node::GuestTasks(pid)) => {
                self.found(pid)?;
                Ok(vec![Entry::new(pid.to_string(), inode(Node::GuestThread(pid)), Kind::Directory)])
            }
            Some(Node::GuestFile(pid, file) | Node::GuestThreadFile(pid, file)) => {
                self.found(pid)?;
                match FILES.get(usize::from(file)) {
                    Some((_, _, Content::NoEntries)) => Ok(Vec::new()),
                    _ => missing(),
                }
            }
            _ => missing(),
        }
    }

    fn readlink(&self, link: u64, caller: &Caller) -> Result<String, Refusal> {
        let Some(node) = Node::decode(link) else { return missing() };
        if let Some(text) = self.fixed_link(node) {
            return Ok(text);
        }
        match node {
            Node::Own(_) => host::own(caller).map(|pid| pid.to_string()),
            Node::OwnThread(_) => host::own(caller).map(|pid| format!("{pid}/task/{}", caller.tid)),
            Node::Place(pid, place, _) => host::place(&self.real, pid, place.name(), caller),
            _ => missing(),
        }
    }

    fn read(&self, file: u64, _caller: &Caller) -> Result<String, Refusal> {
        match Node::decode(file) {
            Some(Node::GuestFile(pid, file) | Node::GuestThreadFile(pid, file)) => self.read_guest(pid, file),
            _ => missing(),
        }
    }
}
