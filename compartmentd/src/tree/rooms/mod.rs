//! The rooms there are, by number. A part of the tree that is still to come (mem-groups, proc) is another room here.

pub mod sched_groups;
mod schedulers;
mod top;

use std::sync::Arc;

use super::room::Kind;
use super::{Inode, Tree};
use crate::groups::rules::Rules;
use crate::groups::{Controller, GroupId};
use crate::notices::Notice;
use sched_groups::Node;

const TOP: usize = 0;
const SCHEDULERS: usize = 1;
const SCHED_GROUPS: usize = 2;

/// Makes the whole tree.
pub fn tree(controller: &Arc<Controller>) -> Tree {
    let rules = Arc::new(Rules::default());
    rules.restore(controller);
    let doors = vec![
        ("schedulers", Inode::new(SCHEDULERS, 0), Kind::Directory),
        ("sched-groups", Inode::new(SCHED_GROUPS, Node::Groups.encode()), Kind::Directory),
    ];
    Tree::new(vec![
        Box::new(top::Top::new(controller.clone(), rules, doors)),
        Box::new(schedulers::Schedulers::new(controller.clone())),
        Box::new(sched_groups::SchedGroups::new(controller.clone())),
    ])
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
    let groups = |node: Node| Inode::new(SCHED_GROUPS, node.encode());
    match notice {
        Notice::Group { name } => vec![Stale::Entry(groups(Node::Groups), name.clone())],
        Notice::Owner(id) => sched_groups::owned_by(*id).map(|node| Stale::Inode(groups(node))).collect(),
        Notice::Member { group, pid } => vec![Stale::Entry(groups(Node::Group(*group)), pid.to_string())],
        Notice::Streams => Vec::new(),
    }
}

/// Gives the inode of a group's directory.
pub fn group_inode(id: GroupId) -> Inode {
    Inode::new(SCHED_GROUPS, Node::Group(id).encode())
}
