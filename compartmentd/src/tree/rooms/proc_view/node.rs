//! The entries of this room as numbers.
//!
//! ```text
//!   kind: 4 | file or turn: 24 | PID or number: 32              all but threads of processes
//!   kind: 4 | PID: 24 | thread: 24 | file: 8                    those
//! ```

use crate::tasks::FIRST_PID;

/// An entry, by what its number says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Node {
    /// `proc` itself.
    Root,
    /// What in `/proc` is no process, by the number that its name was given.
    Other(u32),
    /// `self`, as looked up this time.
    Own(u32),
    /// `thread-self`, as looked up this time.
    OwnThread(u32),
    /// The directory of a process.
    Process(i32),
    /// A file of a process, by its place among the names.
    ProcessFile(i32, u8),
    /// `exe`, `cwd` or `root` of a process, as looked up this time.
    Place(i32, Place, u32),
    /// `task` of a process.
    Tasks(i32),
    /// A thread of a process.
    Thread(i32, i32),
    /// A file of a thread.
    ThreadFile(i32, i32, u8),
    /// The directory of a guest task.
    Guest(i32),
    /// A file of a guest task, by its place among the files.
    GuestFile(i32, u8),
    /// `task` of a guest task.
    GuestTasks(i32),
    /// The one thread of a guest task.
    GuestThread(i32),
    /// A file of that.
    GuestThreadFile(i32, u8),
}

/// Links of a process that tell where it is in the file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Exe,
    Cwd,
    Root,
}

impl Place {
    pub(super) const ALL: [Self; 3] = [Self::Exe, Self::Cwd, Self::Root];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Exe => "exe",
            Self::Cwd => "cwd",
            Self::Root => "root",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|place| place.name() == name)
    }
}

const KIND_SHIFT: u32 = 56;
const FILE_SHIFT: u32 = 32;
const FILE_MASK: u32 = 0x00ff_ffff;
/// Of a turn's bits those that a place leaves.
const TURN_SHIFT: u32 = 2;

/// What is put into the number beside the kind.
enum Parts {
    File(u32, u32),
    Thread(i32, i32, u8),
}

impl Node {
    pub(super) const fn encode(self) -> u64 {
        let (kind, parts) = match self {
            Self::Root => (0, Parts::File(0, 0)),
            Self::Other(number) => (1, Parts::File(0, number)),
            Self::Own(turn) => (2, Parts::File(turn, 0)),
            Self::OwnThread(turn) => (3, Parts::File(turn, 0)),
            Self::Process(pid) => (4, Parts::File(0, pid as u32)),
            Self::ProcessFile(pid, file) => (5, Parts::File(file as u32, pid as u32)),
            Self::Place(pid, place, turn) => (6, Parts::File(turn << TURN_SHIFT | place as u32, pid as u32)),
            Self::Tasks(pid) => (7, Parts::File(0, pid as u32)),
            Self::Thread(pid, tid) => (8, Parts::Thread(pid, tid, 0)),
            Self::ThreadFile(pid, tid, file) => (9, Parts::Thread(pid, tid, file)),
            Self::Guest(pid) => (10, Parts::File(0, pid as u32)),
            Self::GuestFile(pid, file) => (11, Parts::File(file as u32, pid as u32)),
            Self::GuestTasks(pid) => (12, Parts::File(0, pid as u32)),
            Self::GuestThread(pid) => (13, Parts::File(0, pid as u32)),
            Self::GuestThreadFile(pid, file) => (14, Parts::File(file as u32, pid as u32)),
        };
        kind << KIND_SHIFT
            | match parts {
                Parts::File(file, pid) => ((file & FILE_MASK) as u64) << FILE_SHIFT | pid as u64,
                Parts::Thread(pid, tid, file) => {
                    ((pid as u32 & FILE_MASK) as u64) << 32
                        | ((tid as u32 & FILE_MASK) as u64) << 8
                        | file as u64
                }
            }
    }

    /// Reads a number; `None` for those that are no entry's.
    pub(super) fn decode(number: u64) -> Option<Self> {
        let (kind, word) = (number >> KIND_SHIFT, (number >> FILE_SHIFT) as u32 & FILE_MASK);
        let low = number as u32;
        let file = u8::try_from(word);
        let process = || Some(low.cast_signed()).filter(|pid| (1..FIRST_PID).contains(pid));
        let guest = || Some(low.cast_signed()).filter(|pid| *pid >= FIRST_PID);
        let thread = || {
            let (pid, tid) = (word.cast_signed(), (low >> 8).cast_signed());
            ((1..FIRST_PID).contains(&pid) && (1..FIRST_PID).contains(&tid)).then_some((pid, tid))
        };
        match kind {
            0 if number == 0 => Some(Self::Root),
            1 if word == 0 => Some(Self::Other(low)),
            2 if low == 0 => Some(Self::Own(word)),
            3 if low == 0 => Some(Self::OwnThread(word)),
            4 if word == 0 => Some(Self::Process(process()?)),
            5 => Some(Self::ProcessFile(process()?, file.ok()?)),
            6 => {
                let place = *Place::ALL.get(word as usize & ((1 << TURN_SHIFT) - 1))?;
                Some(Self::Place(process()?, place, word >> TURN_SHIFT))
            }
            7 if word == 0 => Some(Self::Tasks(process()?)),
            8 if low as u8 == 0 => thread().map(|(pid, tid)| Self::Thread(pid, tid)),
            9 => thread().map(|(pid, tid)| Self::ThreadFile(pid, tid, low as u8)),
            10 if word == 0 => Some(Self::Guest(guest()?)),
            11 => Some(Self::GuestFile(guest()?, file.ok()?)),
            12 if word == 0 => Some(Self::GuestTasks(guest()?)),
            13 if word == 0 => Some(Self::GuestThread(guest()?)),
            14 => Some(Self::GuestThreadFile(guest()?, file.ok()?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_of_node_is_decoded_from_its_number() {
        let last = FIRST_PID - 1;
        let turn = FILE_MASK >> TURN_SHIFT;
        for node in [
            Node::Root,
            Node::Other(0),
            Node::Other(u32::MAX),
            Node::Own(FILE_MASK),
            Node::OwnThread(7),
            Node::Process(1),
            Node::Process(last),
            Node::ProcessFile(last, 255),
            Node::Place(last, Place::Exe, 0),
            Node::Place(1, Place::Root, turn),
            Node::Place(1, Place::Cwd, 1),
            Node::Tasks(1),
            Node::Thread(last, last),
            Node::ThreadFile(1, last, 255),
            Node::ThreadFile(last, 1, 0),
            Node::Guest(FIRST_PID),
            Node::GuestFile(i32::MAX, 255),
            Node::GuestTasks(i32::MAX),
            Node::GuestThread(FIRST_PID),
            Node::GuestThreadFile(FIRST_PID, 3),
        ] {
            assert!(node.encode() < 1 << 60, "{node:?}");
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
