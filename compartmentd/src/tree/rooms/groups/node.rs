//! The entries of a room of groups and their numbers.

use crate::groups::{GroupId, Process};

/// An entry of this room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node<G, T> {
    /// The room's directory.
    Groups,
    /// `ID`.
    Group(GroupId),
    /// `ID/FILE`.
    GroupFile(GroupId, G),
    /// `ID/PID`. The group is not part of it: an entry keeps its number when it is moved.
    Task(TaskKey),
    /// `ID/PID/FILE`.
    TaskFile(TaskKey, T),
}

/// A process, told apart from earlier and later ones with its number by when it started.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TaskKey {
    /// Its PID, below 2^24: guest tasks have the numbers from 4194304 up.
    pub pid: i32,
    /// The low 30 bits of its start time: the same for another process of that number only if it starts in
    /// the same hundredth of a second 124 days later.
    start: u32,
}

const PID_BITS: u32 = 24;
const START_BITS: u32 = 30;
const ATTR_SHIFT: u32 = PID_BITS + START_BITS;
const KIND_SHIFT: u32 = ATTR_SHIFT + 4;

impl TaskKey {
    /// Makes the key of a process.
    pub const fn of(process: &Process) -> Self {
        Self { pid: process.pid, start: (process.start_time & ((1 << START_BITS) - 1)) as u32 }
    }

    /// Says whether it is that process.
    pub fn is(&self, process: &Process) -> bool {
        *self == Self::of(process)
    }
}

/// The files of a group or of a process.
pub trait Files: Copy + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// All of them, in the order of the documentation, which is part of the inode numbers: at most 16.
    const ALL: &'static [Self];

    /// Gives the file's name.
    fn name(self) -> &'static str;

    /// Gives its permission bits.
    fn mode(self) -> u16;

    /// Gives its place in [`Files::ALL`].
    fn index(self) -> u64;
}

/// Makes an enum of files.
macro_rules! files {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $file:literal, $mode:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $crate::tree::rooms::groups::Files for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn name(self) -> &'static str {
                match self { $(Self::$variant => $file),+ }
            }

            fn mode(self) -> u16 {
                match self { $(Self::$variant => $mode),+ }
            }

            fn index(self) -> u64 {
                self as u64
            }
        }
    };
}
pub(crate) use files;

impl<G: Files, T: Files> Node<G, T> {
    /// Gives its number, 60 bits.
    pub fn encode(self) -> u64 {
        let (kind, attr, low) = match self {
            Self::Groups => (0, 0, u64::MAX >> (64 - ATTR_SHIFT)),
            Self::Group(id) => (0, 0, u64::from(id.0)),
            Self::GroupFile(id, file) => (1, file.index(), u64::from(id.0)),
            Self::Task(key) => (2, 0, key.pid as u64 | (key.start as u64) << PID_BITS),
            Self::TaskFile(key, file) => (3, file.index(), key.pid as u64 | (key.start as u64) << PID_BITS),
        };
        kind << KIND_SHIFT | attr << ATTR_SHIFT | low
    }

    /// Takes a number apart; `None` if it is no entry's.
    pub fn decode(number: u64) -> Option<Self> {
        let (kind, attr) = (number >> KIND_SHIFT, (number >> ATTR_SHIFT & 15) as usize);
        let low = number & ((1 << ATTR_SHIFT) - 1);
        let key = TaskKey { pid: (low & ((1 << PID_BITS) - 1)) as i32, start: (low >> PID_BITS) as u32 };
        match (kind, attr) {
            (0, 0) if number == Self::Groups.encode() => Some(Self::Groups),
            (0, 0) => Some(Self::Group(GroupId(u32::try_from(low).ok()?))),
            (1, _) => Some(Self::GroupFile(GroupId(u32::try_from(low).ok()?), *G::ALL.get(attr)?)),
            (2, 0) => Some(Self::Task(key)),
            (3, _) => Some(Self::TaskFile(key, *T::ALL.get(attr)?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::rooms::sched_groups::{GroupFile, TaskFile};

    type Node = super::Node<GroupFile, TaskFile>;

    fn process(pid: i32, start_time: u64) -> Process {
        Process { pid, start_time, ppid: 1, is_kernel_thread: false }
    }

    #[test]
    fn every_kind_of_node_is_decoded_from_its_number() {
        let key = TaskKey::of(&process(4_194_304 + 5, u64::MAX));
        let mut nodes =
            vec![Node::Groups, Node::Group(GroupId::HOST), Node::Group(GroupId(u32::MAX)), Node::Task(key)];
        nodes.extend(GroupFile::ALL.iter().map(|file| Node::GroupFile(GroupId(7), *file)));
        nodes.extend(TaskFile::ALL.iter().map(|file| Node::TaskFile(key, *file)));

        for node in nodes {
            assert!(node.encode() < 1 << 60);
            assert_eq!(Node::decode(node.encode()), Some(node));
        }
    }

    #[test]
    fn reused_pid_is_another_node() {
        let (old, new) = (process(7, 100), process(7, 101));

        assert!(TaskKey::of(&old).is(&old) && !TaskKey::of(&old).is(&new));
        assert_ne!(Node::Task(TaskKey::of(&old)).encode(), Node::Task(TaskKey::of(&new)).encode());
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
