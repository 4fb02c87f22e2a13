//! What has to be told to whoever looks at the tree: collected from everywhere, delivered by one thread of the view.
//!
//! The view must never be told from inside a request: the kernel may hold the directory's lock until that request is answered. So
//! everybody only leaves a notice here.

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::groups::GroupId;

/// A half of the control tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// `sched-groups/`.
    Sched,
    /// `mem-groups/`.
    Mem,
}

impl Side {
    /// Gives the directory of its groups.
    pub const fn dir(self) -> &'static str {
        match self {
            Self::Sched => "sched-groups",
            Self::Mem => "mem-groups",
        }
    }
}

/// Something that changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A group came or went.
    Group {
        /// Where.
        side: Side,
        /// Its name.
        name: String,
    },
    /// A group has another owner.
    Owner(Side, GroupId),
    /// A process came into a group (or into none: [`GroupId::HOST`]), or left it.
    Member {
        /// Where.
        side: Side,
        /// The group.
        group: GroupId,
        /// The process.
        pid: i32,
    },
    /// A process or guest task is no longer in `proc/`.
    Ended(i32),
    /// Streams may have something to read.
    Streams,
}

/// Where notices are left. Never blocks.
#[derive(Clone, Debug)]
pub struct Notices(Sender<Notice>);

impl Notices {
    /// Makes a place to leave notices and the end that delivers them.
    pub fn new() -> (Self, Receiver<Notice>) {
        let (tx, rx) = channel();
        (Self(tx), rx)
    }

    /// Leaves a notice; without effect when nobody delivers any more.
    pub fn post(&self, notice: Notice) {
        let _ = self.0.send(notice);
    }
}
