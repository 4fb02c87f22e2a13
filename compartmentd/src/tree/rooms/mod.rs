//! The rooms there are, by number.

pub mod groups;
mod guest_tasks;
mod holds;
pub mod mem_groups;
pub mod proc_view;
pub mod sched_groups;
mod top;

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::room::{Kind as EntryKind, Room};
use super::{Inode, Tree};
use crate::groups::rules::Rules;
use crate::groups::{Controller, GroupId};
use crate::notices::{Notice, Notices, Side};
use crate::pools::Pools;
use groups::{Groups, Node, Shown, inode, owned_by};
use mem_groups::MemFiles;
use sched_groups::SchedFiles;

const TOP: usize = 0;
const SCHEDULERS: usize = 1;
const SCHED_GROUPS: usize = 2;
const MEMORIES: usize = 3;
const MEM_GROUPS: usize = 4;
const PROC: usize = 5;
/// Of the rooms, the last number: its entries are found in `sched-groups`.
const GUEST_TASKS: usize = 15;

/// Makes the whole tree. `host_proc` is where whoever looks at it finds the host's `/proc`.
///
/// # Errors
/// Those of starting what watches for the ends of processes.
pub fn tree(
    controller: &Arc<Controller>,
    pools: &Arc<Pools>,
    notices: &Notices,
    host_proc: &Path,
) -> io::Result<Tree> {
    let rules = Arc::new(Rules::new(controller, pools));
    rules.restore();
    let doors = vec![
        ("schedulers", Inode::new(SCHEDULERS, 0), EntryKind::Directory),
        ("sched-groups", inode::<SchedFiles>(Node::Groups), EntryKind::Directory),
        ("memories", Inode::new(MEMORIES, 0), EntryKind::Directory),
        ("mem-groups", inode::<MemFiles>(Node::Groups), EntryKind::Directory),
        ("proc", proc_view::DOOR, EntryKind::Directory),
    ];
    let mem_files = MemFiles::new(pools);
    let proc = proc_view::ProcView::new(controller.guests().clone(), notices.clone(), host_proc)?;
    let rooms: Vec<Box<dyn Room>> = vec![
        Box::new(top::Top::new(controller.clone(), rules, doors)),
        Box::new(holds::Holds::new(SCHEDULERS, "schedulers", controller.clone())),
        Box::new(Groups::new(controller.clone(), SchedFiles)),
        Box::new(holds::Holds::new(MEMORIES, "memories", pools.clone())),
        Box::new(Groups::new(pools.clone(), mem_files)),
        Box::new(proc),
    ];
    let guest_tasks = guest_tasks::GuestTasks::new(controller.guests().clone());
    Ok(Tree::new(rooms).with(GUEST_TASKS, Box::new(guest_tasks)))
}

/// Something the kernel has cached and must forget.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stale {
    /// An entry of a directory.
    Entry(Inode, String),
    /// What `stat` shows of an entry.
    Inode(Inode),
}

/// Says what must be forgotten after a change.
pub fn stale(notice: &Notice) -> Vec<Stale> {
    match notice {
        Notice::Group { side: Side::Sched, .. }
        | Notice::Owner(Side::Sched, _)
        | Notice::Member { side: Side::Sched, .. } => stale_in::<SchedFiles>(notice),
        Notice::Group { side: Side::Mem, .. }
        | Notice::Owner(Side::Mem, _)
        | Notice::Member { side: Side::Mem, .. } => stale_in::<MemFiles>(notice),
        Notice::Ended(pid) => {
            let (dir, name) = proc_view::entry_of(*pid);
            vec![Stale::Entry(dir, name)]
        }
        Notice::Streams => Vec::new(),
    }
}

fn stale_in<S: Shown>(notice: &Notice) -> Vec<Stale> {
    match notice {
        Notice::Group { name, .. } => vec![Stale::Entry(inode::<S>(Node::Groups), name.clone())],
        Notice::Owner(_, id) => owned_by::<S>(*id).map(Stale::Inode).collect(),
        Notice::Member { group, pid, .. } => {
            vec![Stale::Entry(inode::<S>(Node::Group(*group)), pid.to_string())]
        }
        Notice::Ended(_) | Notice::Streams => Vec::new(),
    }
}

/// Gives the inode of a sched_group's directory.
pub fn group_inode(id: GroupId) -> Inode {
    inode::<SchedFiles>(Node::Group(id))
}
