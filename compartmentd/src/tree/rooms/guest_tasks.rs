//! The groups of applications in `sched-groups/`, and their guest tasks.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::sync::Arc;

use guest_task::layout::SlotView;

use super::GUEST_TASKS;
use crate::errno::{Refusal, Why};
use crate::groups::Caller;
use crate::tasks::{App, Found, Guests};
use crate::tree::Inode;
use crate::tree::names::parse_pid;
use crate::tree::room::{Attr, Entry, Kind, Room};
use crate::tree::values::{escape, format_line, parse_nice, parse_signal};

/// The room.
#[derive(Debug)]
pub(super) struct GuestTasks {
    guests: Arc<Guests>,
}

/// An entry of this room, by what its number says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    /// An application's group, by the application's PID.
    App(i32),
    /// One of [`APP_FILES`].
    AppFile(i32, usize),
    /// A task, by its guest PID.
    Task(i32),
    /// One of [`TASK_FILES`].
    TaskFile(i32, usize),
}

/// The files of an application's group.
const APP_FILES: [&str; 4] = ["scheduler", "representative", "tasks.stat", "tasks"];

/// The files of a task, with their modes. Who may signal is for the task's user, not for modes.
const TASK_FILES: [(&str, u16); 7] = [
    ("comm", 0o444),
    ("cmdline", 0o444),
    ("owner", 0o444),
    ("nice", 0o644),
    ("state", 0o444),
    ("stat", 0o444),
    ("signal", 0o222),
];

const FILE_SHIFT: u32 = 32;
const KIND_SHIFT: u32 = 56;

impl Node {
    const fn encode(self) -> u64 {
        let (kind, file, pid) = match self {
            Self::App(pid) => (0, 0, pid),
            Self::AppFile(pid, file) => (1, file, pid),
            Self::Task(pid) => (2, 0, pid),
            Self::TaskFile(pid, file) => (3, file, pid),
        };
        kind << KIND_SHIFT | (file as u64) << FILE_SHIFT | pid as u32 as u64
    }

    fn decode(number: u64) -> Option<Self> {
        let pid = (number as u32).cast_signed();
        let file = (number >> FILE_SHIFT & 0x00ff_ffff) as usize;
        match (number >> KIND_SHIFT, file) {
            _ if pid <= 0 => None,
            (0, 0) => Some(Self::App(pid)),
            (1, _) if file < APP_FILES.len() => Some(Self::AppFile(pid, file)),
            (2, 0) => Some(Self::Task(pid)),
            (3, _) if file < TASK_FILES.len() => Some(Self::TaskFile(pid, file)),
            _ => None,
        }
    }

    fn entry(self, name: impl Into<String>) -> Entry {
        let is_file = matches!(self, Self::AppFile(..) | Self::TaskFile(..));
        let kind = if is_file { Kind::File } else { Kind::Directory };
        Entry::new(name, inode(self), kind)
    }
}

const fn inode(node: Node) -> Inode {
    Inode::new(GUEST_TASKS, node.encode())
}

fn missing<T>() -> Result<T, Refusal> {
    Err(Refusal::new(Why::Missing, "no such entry"))
}

/// Lists the applications' groups for `sched-groups`.
pub(super) fn entries(guests: &Guests) -> impl Iterator<Item = Entry> {
    guests.apps().into_iter().map(|app| Node::App(app.pid).entry(app.pid.to_string()))
}

/// Finds an application's group for `sched-groups`.
///
/// # Errors
/// ENOENT.
pub(super) fn find(guests: &Guests, name: &OsStr) -> Result<Inode, Refusal> {
    let app = parse_pid(name).and_then(|pid| guests.app(pid));
    app.map_or_else(missing, |app| Ok(inode(Node::App(app.pid))))
}

/// Gives a task's file of that name for `proc`, where it is the same one.
pub(super) fn control(pid: i32, name: &str) -> Option<Inode> {
    TASK_FILES.iter().position(|file| file.0 == name).map(|file| inode(Node::TaskFile(pid, file)))
}

impl GuestTasks {
    pub(super) fn new(guests: Arc<Guests>) -> Self {
        Self { guests }
    }

    fn app(&self, pid: i32) -> Result<App, Refusal> {
        self.guests.app(pid).map_or_else(missing, Ok)
    }

    fn read_app(&self, app: App, file: usize) -> Result<String, Refusal> {
        Ok(match APP_FILES[file] {
            "scheduler" => "application\n".into(),
            "representative" => format_line(app.pid),
            "tasks" => format_tasks(&self.guests.views(app.pid)?),
            _ => {
                let (tasks, slots) = self.guests.count(app.pid);
                format!("nr_tasks {tasks}\nnr_slots {slots}\n")
            }
        })
    }

    fn read_task(&self, found: &Found, file: usize) -> Result<String, Refusal> {
        let view = &found.view;
        Ok(match TASK_FILES[file].0 {
            "comm" => format_line(&view.name),
            "cmdline" => view.cmdline.clone(),
            "owner" => format_line(&view.owner),
            "nice" => format_line(view.nice),
            "state" => format_line(view.state.word()),
            "stat" => format!(
                "usage_usec {}\nmemory_bytes {}\nage_usec {}\nppid {}\n",
                view.cpu_ns / 1_000,
                view.memory_bytes,
                now_ns().saturating_sub(view.start_ns) / 1_000,
                self.guests.parent(found),
            ),
            _ => return Err(Refusal::new(Why::NotAllowed, "this file cannot be read")),
        })
    }
}

/// All tasks, one line each, in order of their numbers: words of `key=value`, as in `events`.
fn format_tasks(tasks: &[(i32, i32, SlotView)]) -> String {
    let now = now_ns();
    let mut out = String::with_capacity(tasks.len() * 128);
    for (pid, ppid, view) in tasks {
        let _ = writeln!(
            out,
            "pid={pid} ppid={ppid} state={} nice={} usage_usec={} memory_bytes={} age_usec={} comm={} cmdline={} owner={}",
            view.state.word(),
            view.nice,
            view.cpu_ns / 1_000,
            view.memory_bytes,
            now.saturating_sub(view.start_ns) / 1_000,
            escape(view.name.as_bytes()),
            escape(view.cmdline.as_bytes()),
            escape(view.owner.as_bytes()),
        );
    }
    out
}

/// The clock in which tasks say when they began.
fn now_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}

fn attr(node: Node, app: App) -> Attr {
    let attr = match node {
        Node::App(_) | Node::Task(_) => Attr::dir(0o755),
        Node::AppFile(..) => Attr::file(0o444),
        Node::TaskFile(_, file) => Attr::file(TASK_FILES[file].1),
    };
    attr.owned((app.uid, app.gid))
}

impl Room for GuestTasks {
    fn stat(&self, node: u64) -> Result<Attr, Refusal> {
        match Node::decode(node) {
            None => missing(),
            Some(node @ (Node::App(pid) | Node::AppFile(pid, _))) => Ok(attr(node, self.app(pid)?)),
            Some(node @ (Node::Task(pid) | Node::TaskFile(pid, _))) => {
                Ok(attr(node, self.guests.find(pid).or_else(|_| missing())?.app()))
            }
        }
    }

    fn path(&self, node: u64) -> String {
        let task = |pid| match self.guests.find(pid) {
            Ok(found) => format!("sched-groups/{}/{pid}", found.app().pid),
            Err(_) => format!("sched-groups/?/{pid}"),
        };
        match Node::decode(node) {
            None => "sched-groups/?".into(),
            Some(Node::App(pid)) => format!("sched-groups/{pid}"),
            Some(Node::AppFile(pid, file)) => format!("sched-groups/{pid}/{}", APP_FILES[file]),
            Some(Node::Task(pid)) => task(pid),
            Some(Node::TaskFile(pid, file)) => format!("{}/{}", task(pid), TASK_FILES[file].0),
        }
    }

    fn lookup(&self, dir: u64, name: &OsStr) -> Result<Inode, Refusal> {
        let node = match Node::decode(dir) {
            Some(Node::App(app)) => match parse_pid(name) {
                Some(pid) => {
                    let found = self.guests.find(pid).or_else(|_| missing())?;
                    (found.app().pid == app).then_some(Node::Task(pid))
                }
                None => APP_FILES.iter().position(|f| name == *f).map(|file| Node::AppFile(app, file)),
            },
            Some(Node::Task(pid)) => {
                TASK_FILES.iter().position(|f| name == f.0).map(|file| Node::TaskFile(pid, file))
            }
            _ => None,
        };
        node.map_or_else(missing, |node| Ok(inode(node)))
    }

    fn list(&self, dir: u64) -> Result<Vec<Entry>, Refusal> {
        match Node::decode(dir) {
            Some(Node::App(app)) => {
                self.app(app)?;
                let files = (0..).zip(APP_FILES).map(|(file, name)| Node::AppFile(app, file).entry(name));
                let tasks = self.guests.list(app);
                Ok(files.chain(tasks.into_iter().map(|pid| Node::Task(pid).entry(pid.to_string()))).collect())
            }
            Some(Node::Task(pid)) => {
                self.guests.find(pid)?;
                let files = (0..).zip(TASK_FILES);
                Ok(files.map(|(file, (name, _))| Node::TaskFile(pid, file).entry(name)).collect())
            }
            _ => missing(),
        }
    }

    fn read(&self, file: u64, _caller: &Caller) -> Result<String, Refusal> {
        match Node::decode(file) {
            Some(Node::AppFile(pid, file)) => self.read_app(self.app(pid)?, file),
            Some(Node::TaskFile(pid, file)) => self.read_task(&self.guests.find(pid)?, file),
            _ => missing(),
        }
    }

    fn write(&self, file: u64, caller: &Caller, value: &[u8]) -> Result<(), Refusal> {
        let Some(Node::TaskFile(pid, file)) = Node::decode(file) else {
            return Err(Refusal::new(Why::NotAllowed, "this file cannot be written"));
        };
        match TASK_FILES[file].0 {
            "signal" => {
                let number = parse_signal(value)?;
                self.guests.signal(caller, &self.guests.find(pid)?, number)
            }
            "nice" => {
                let nice = parse_nice(value)?;
                self.guests.renice(caller, &self.guests.find(pid)?, nice)
            }
            _ => Err(Refusal::new(Why::NotAllowed, "this file cannot be written")),
        }
    }

    fn rename(&self, _caller: &Caller, _from: u64, _to: u64, _name: &OsStr) -> Result<(), Refusal> {
        Err(unmovable())
    }

    fn apart(&self) -> Option<Refusal> {
        Some(unmovable())
    }
}

fn unmovable() -> Refusal {
    Refusal::new(Why::Unsupported, "an application's group has its own guest tasks, and only those")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_of_node_is_decoded_from_its_number() {
        let mut nodes = vec![Node::App(1), Node::App(i32::MAX), Node::Task(4_194_304), Node::Task(i32::MAX)];
        nodes.extend((0..APP_FILES.len()).map(|file| Node::AppFile(7, file)));
        nodes.extend((0..TASK_FILES.len()).map(|file| Node::TaskFile(i32::MAX, file)));

        for node in nodes {
            assert!(node.encode() < 1 << 60);
            assert_eq!(Node::decode(node.encode()), Some(node));
        }
    }

    proptest! {
        #[test]
        fn any_number_never_panics_and_decodes_to_itself(number in 0u64..1 << 60) {
            if let Some(node) = Node::decode(number) {
                prop_assert_eq!(node.encode(), number);
            }
        }
    }
}
