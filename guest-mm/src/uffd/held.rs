//! What outlives a worker: memory files and descriptors that its keeper holds too, and the journal that tells what they are.
//!
//! Keeper and worker share their descriptor table, so a descriptor stays open, under its number, when the worker is killed. The journal is a
//! memory file of words that says which numbers are what. Each entry is written in such an order that a reader after any store finds either
//! the whole entry or none: its first word last.
//!
//! Layout, in words: a header; [`TIERS_AT`]: eight tiers of eight; [`MESSAGES_AT`]: the messages that were read from a userfaultfd and are
//! not yet acted upon; [`SPACES_AT`]: an entry for each address space.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use host_sys::SharedWords;
use host_sys::uffd::MESSAGE_WORDS;

use crate::memory::{Memory, NoMemory};

/// How many address spaces a group may have.
pub(crate) const SPACES_MAX: usize = 4096;
/// How many messages are read at once.
pub(crate) const MESSAGES: usize = 16;

const MESSAGES_SPACE: usize = 8;
/// The number of the first message that was read last.
const MESSAGES_NUMBER: usize = 9;
const TIERS_AT: usize = 64;
const TIER_WORDS: usize = 8;
const MESSAGES_AT: usize = 256;
const SPACES_AT: usize = 512;
const SPACE_WORDS: usize = 16;
const JOURNAL_WORDS: usize = SPACES_AT + SPACES_MAX * SPACE_WORDS;
/// 16 GiB of page tables, sparse: enough for 8 TiB of members' memory.
const TABLE_WORDS: usize = 1 << 31;

/// The memory files of a group. Made once, by its keeper.
#[derive(Debug)]
pub(crate) struct Held {
    journal: OwnedFd,
    tables: OwnedFd,
}

impl Held {
    /// Makes them, empty.
    ///
    /// # Errors
    /// Those of `memfd_create` and `ftruncate`.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            journal: SharedWords::memory_file("compartment-journal", JOURNAL_WORDS)?,
            tables: SharedWords::memory_file("compartment-tables", TABLE_WORDS)?,
        })
    }

    /// Maps the journal.
    ///
    /// # Errors
    /// Those of `mmap`.
    pub(crate) fn journal(&self) -> io::Result<Journal> {
        Ok(Journal { words: SharedWords::map_fd(self.journal.as_fd(), JOURNAL_WORDS)? })
    }

    /// Maps the page tables.
    ///
    /// # Errors
    /// Those of `mmap`.
    pub(crate) fn tables(&self) -> io::Result<TableMemory> {
        Ok(TableMemory {
            words: SharedWords::map_fd(self.tables.as_fd(), TABLE_WORDS)?,
            journal: self.journal()?,
        })
    }

    /// The largest descriptor that has to stay open for later workers, beside those in the journal.
    pub(crate) fn fds(&self) -> [i32; 2] {
        [self.journal.as_raw_fd(), self.tables.as_raw_fd()]
    }
}

/// The word of the journal's header that says how many words of the page tables are in use.
const TABLE_LEN: usize = 1;

/// The page tables' memory.
#[derive(Debug)]
pub(crate) struct TableMemory {
    words: SharedWords,
    journal: Journal,
}

impl Memory for TableMemory {
    fn word(&self, index: usize) -> &AtomicU64 {
        &self.words.words()[index]
    }

    fn len(&self) -> usize {
        self.journal.words.words()[TABLE_LEN].load(Ordering::Acquire) as usize
    }

    fn grow(&mut self, words: usize) -> Result<(), NoMemory> {
        let len = self.len() + words;
        if len > TABLE_WORDS {
            return Err(NoMemory);
        }
        self.journal.words.words()[TABLE_LEN].store(len as u64, Ordering::Release);
        Ok(())
    }
}

/// An address space as the journal has it. Descriptors are numbers, valid in the shared table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct SpaceEntry {
    /// The process; 0 while it is not known (a fork was told, the child was not yet).
    pub(crate) pid: i32,
    /// Its start time.
    pub(crate) start_time: u64,
    /// The userfaultfd.
    pub(crate) uffd: i32,
    /// Our end of the agent's socket; -1 without an agent.
    pub(crate) socket: i32,
    /// The agent's memory file.
    pub(crate) memory: i32,
    /// The agent's PID.
    pub(crate) agent_pid: i32,
    /// The agent's descriptor of the userfaultfd over the staging area.
    pub(crate) mover: i32,
    /// Where the staging area is.
    pub(crate) staging: u64,
    /// Where the agent's code is.
    pub(crate) code: u64,
    /// Arguments and environment, which are not paged.
    pub(crate) arguments: (u64, u64),
    /// It began as the copy of another one.
    pub(crate) is_forked: bool,
}

/// A tier as the journal has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TierEntry {
    /// Its file.
    pub(crate) fd: i32,
    /// A digest of how it was configured.
    pub(crate) digest: u64,
}

/// The mapped journal.
#[derive(Debug)]
pub(crate) struct Journal {
    words: SharedWords,
}

impl Journal {
    fn word(&self, at: usize) -> &AtomicU64 {
        &self.words.words()[at]
    }

    fn put(&self, at: usize, values: &[u64]) {
        self.word(at).store(0, Ordering::SeqCst);
        for (i, value) in values.iter().enumerate().skip(1) {
            self.word(at + i).store(*value, Ordering::SeqCst);
        }
        self.word(at).store(values[0], Ordering::SeqCst);
    }

    /// Whether an earlier worker has used it.
    pub(crate) fn is_used(&self) -> bool {
        self.word(0).swap(1, Ordering::SeqCst) != 0
    }

    /// Records an address space; `index` below [`SPACES_MAX`].
    pub(crate) fn set_space(&self, index: usize, entry: &SpaceEntry) {
        let fd = |fd: i32| u64::from(fd.cast_unsigned());
        self.put(
            SPACES_AT + index * SPACE_WORDS,
            &[
                1,
                fd(entry.pid),
                entry.start_time,
                fd(entry.uffd),
                fd(entry.socket),
                fd(entry.memory),
                fd(entry.agent_pid),
                fd(entry.mover),
                entry.staging,
                entry.code,
                entry.arguments.0,
                entry.arguments.1,
                entry.is_forked.into(),
            ],
        );
    }

    /// Forgets an address space.
    pub(crate) fn clear_space(&self, index: usize) {
        self.word(SPACES_AT + index * SPACE_WORDS).store(0, Ordering::SeqCst);
    }

    /// Gives the address spaces there are, by index.
    pub(crate) fn spaces(&self) -> Vec<(usize, SpaceEntry)> {
        let used =
            (0..SPACES_MAX).filter(|i| self.word(SPACES_AT + i * SPACE_WORDS).load(Ordering::SeqCst) != 0);
        used.map(|i| {
            let at = |n: usize| self.word(SPACES_AT + i * SPACE_WORDS + n).load(Ordering::SeqCst);
            let fd = |n: usize| at(n) as i32;
            let entry = SpaceEntry {
                pid: fd(1),
                start_time: at(2),
                uffd: fd(3),
                socket: fd(4),
                memory: fd(5),
                agent_pid: fd(6),
                mover: fd(7),
                staging: at(8),
                code: at(9),
                arguments: (at(10), at(11)),
                is_forked: at(12) != 0,
            };
            (i, entry)
        })
        .collect()
    }

    /// Records a tier; `index` below 8.
    pub(crate) fn set_tier(&self, index: usize, entry: &TierEntry) {
        self.put(TIERS_AT + index * TIER_WORDS, &[1, u64::from(entry.fd.cast_unsigned()), entry.digest]);
    }

    /// Forgets a tier.
    pub(crate) fn clear_tier(&self, index: usize) {
        self.word(TIERS_AT + index * TIER_WORDS).store(0, Ordering::SeqCst);
    }

    /// Gives a tier.
    pub(crate) fn tier(&self, index: usize) -> Option<TierEntry> {
        let at = |n: usize| self.word(TIERS_AT + index * TIER_WORDS + n).load(Ordering::SeqCst);
        (at(0) != 0).then(|| TierEntry { fd: at(1) as i32, digest: at(2) })
    }

    /// Gives every descriptor that the journal knows.
    pub(crate) fn fds(&self) -> Vec<i32> {
        let tiers = (0..8).filter_map(|i| self.tier(i)).map(|t| t.fd);
        let spaces = self.spaces().into_iter().flat_map(|(_, s)| [s.uffd, s.socket, s.memory]);
        // A forked child's that was read and not yet recorded.
        let messages = (0..MESSAGES).filter_map(|i| match host_sys::uffd::Message::decode(self.message(i)) {
            Some(host_sys::uffd::Message::Fork(fd)) => Some(fd),
            _ => None,
        });
        tiers.chain(spaces).chain(messages).filter(|fd| *fd >= 0).collect()
    }

    /// Reads what a userfaultfd tells; messages that an earlier read left are to be acted upon first.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn read_messages(
        &self,
        space: usize,
        uffd: &host_sys::uffd::Userfaultfd,
    ) -> io::Result<usize> {
        self.word(MESSAGES_SPACE).store(space as u64, Ordering::SeqCst);
        self.word(MESSAGES_NUMBER).fetch_add(MESSAGES as u64, Ordering::SeqCst);
        uffd.read_into(&self.words, MESSAGES_AT, MESSAGES)
    }

    /// Gives a message that was read.
    pub(crate) fn message(&self, index: usize) -> [u64; MESSAGE_WORDS] {
        std::array::from_fn(|i| self.word(MESSAGES_AT + index * MESSAGE_WORDS + i).load(Ordering::SeqCst))
    }

    /// Gives the number of a message that was read: no other has had it, and numbers rise.
    pub(crate) fn message_number(&self, index: usize) -> u64 {
        self.word(MESSAGES_NUMBER).load(Ordering::SeqCst) + index as u64
    }

    /// Notes that a message was acted upon.
    pub(crate) fn message_done(&self, index: usize) {
        self.word(MESSAGES_AT + index * MESSAGE_WORDS).store(0, Ordering::SeqCst);
    }

    /// Gives whose messages were read last.
    pub(crate) fn messages_space(&self) -> usize {
        self.word(MESSAGES_SPACE).load(Ordering::SeqCst) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_another_mapping() {
        let held = Held::new().expect("memory files");
        let journal = held.journal().expect("mapped");
        assert!(!journal.is_used());
        let entry = SpaceEntry {
            pid: 7,
            uffd: 12,
            socket: -1,
            staging: 1 << 40,
            arguments: (1, 2),
            ..SpaceEntry::default()
        };
        journal.set_space(3, &entry);
        journal.set_tier(1, &TierEntry { fd: 9, digest: 77 });

        let later = held.journal().expect("mapped");
        assert!(later.is_used());
        assert_eq!(later.spaces(), [(3, entry)]);
        assert_eq!(later.tier(1), Some(TierEntry { fd: 9, digest: 77 }));
        later.clear_space(3);
        assert_eq!(journal.spaces(), []);
    }

    #[test]
    fn tables_keep_their_length() {
        let held = Held::new().expect("memory files");
        let mut tables = held.tables().expect("mapped");
        tables.grow(512).expect("room");
        tables.word(511).store(5, Ordering::SeqCst);

        let later = held.tables().expect("mapped");
        assert_eq!((later.len(), later.word(511).load(Ordering::SeqCst)), (512, 5));
        assert!(tables.grow(TABLE_WORDS).is_err());
    }
}
