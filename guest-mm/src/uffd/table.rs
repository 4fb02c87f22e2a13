//! The shared file in which a memory worker publishes its group.
//!
//! The daemon shows it in the control tree without asking the worker. There is one writer, the worker (and the keeper for its own PID).
//! The file lies in the group's state directory, mode 0600.
//!
//! Layout: 64-bit words, little trust needed: every word is read atomically and any value is legal to read. A header of
//! [`HEADER_WORDS`], then twice the counters, then twice the members. Of each pair one half is shown while the other is written; the
//! half that is shown is the number of the edition modulo 2. So a worker that dies while it writes leaves the last edition whole.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use host_sys::SharedWords;

/// The file's name in a group's state directory.
pub const TABLE: &str = "mem-table";
/// The most members a group may have.
pub const CAPACITY: usize = 4096;
/// Words before the counters.
pub const HEADER_WORDS: usize = 16;

const MAGIC: u64 = 0x0001_5442_4d4d_4d47;
const STAT_WORDS: usize = 64;
/// The number of rows, then the rows.
const MEMBERS_WORDS: usize = 8 + CAPACITY * ROW_WORDS;
const ROW_WORDS: usize = 8;
const STAT_AT: usize = HEADER_WORDS;
const MEMBERS_AT: usize = STAT_AT + 2 * STAT_WORDS;
const WORDS: usize = MEMBERS_AT + 2 * MEMBERS_WORDS;
/// A writer publishes a few times a second: a reader that is overtaken more often than this reads nonsense.
const TRIES: usize = 4096;

/// Words of the header.
#[derive(Clone, Copy)]
enum H {
    Magic,
    KeeperPid,
    WorkerPid,
    /// Not 0: the group is at its end, and nobody is to start a worker for it.
    Dissolved,
    StatEdition,
    MembersEdition,
}

/// Time lost waiting for memory, as `/proc/pressure/memory` has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stall {
    /// Share of the last 10 s in 1/100 percent, 0..=10000.
    pub avg10: u64,
    /// Of the last 60 s.
    pub avg60: u64,
    /// Of the last 300 s.
    pub avg300: u64,
    /// Microseconds since the group was made.
    pub total_usec: u64,
}

/// Counters of a group, since it was made, and levels, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemStat {
    /// Resident bytes, compressed tier and unmanaged pages included: `memory.current`.
    pub current: u64,
    /// Uncompressed bytes that are swapped out over all tiers: `memory.swap.current`.
    pub swap_current: u64,
    /// Resident bytes of managed pages.
    pub anon: u64,
    /// Bytes that the compressed tier takes up.
    pub zswap: u64,
    /// Uncompressed bytes that are in the compressed tier.
    pub zswapped: u64,
    /// Resident bytes that cannot be paged.
    pub unmanaged: u64,
    /// Faults that the guest VM has served.
    pub pgfault: u64,
    /// Those of them that waited for a tier to be read.
    pub pgmajfault: u64,
    /// Pages evicted.
    pub pgsteal: u64,
    /// Pages looked at for eviction.
    pub pgscan: u64,
    /// Pages read from a tier.
    pub pswpin: u64,
    /// Pages written to a tier.
    pub pswpout: u64,
    /// Pages taken back from the rescue buffer.
    pub rescued: u64,
    /// Pages read ahead.
    pub readahead: u64,
    /// Pages read ahead that were touched afterwards.
    pub readahead_hit: u64,
    /// CPU time of the worker, microseconds.
    pub worker_usec: u64,
    /// Times the limit made somebody wait for an eviction.
    pub max_events: u64,
    /// Times the pool was full and nothing could be evicted.
    pub oom: u64,
    /// Members killed for that.
    pub oom_kill: u64,
    /// Time in which some member waited.
    pub some: Stall,
    /// Time in which every member that had something to do waited.
    pub full: Stall,
}

impl MemStat {
    /// Gives each field in the order in which the file holds them.
    fn fields(&mut self) -> [&mut u64; 27] {
        let (some, full) = (&mut self.some, &mut self.full);
        [
            &mut self.current,
            &mut self.swap_current,
            &mut self.anon,
            &mut self.zswap,
            &mut self.zswapped,
            &mut self.unmanaged,
            &mut self.pgfault,
            &mut self.pgmajfault,
            &mut self.pgsteal,
            &mut self.pgscan,
            &mut self.pswpin,
            &mut self.pswpout,
            &mut self.rescued,
            &mut self.readahead,
            &mut self.readahead_hit,
            &mut self.worker_usec,
            &mut self.max_events,
            &mut self.oom,
            &mut self.oom_kill,
            &mut some.avg10,
            &mut some.avg60,
            &mut some.avg300,
            &mut some.total_usec,
            &mut full.avg10,
            &mut full.avg60,
            &mut full.avg300,
            &mut full.total_usec,
        ]
    }
}

/// One process of a group as it is published; sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemberStat {
    /// The process.
    pub pid: i32,
    /// Its start time in clock ticks after boot.
    pub start_time: u64,
    /// Resident bytes of managed pages that are charged to the group.
    pub resident: u64,
    /// Uncompressed bytes swapped out.
    pub swapped: u64,
    /// Resident bytes that cannot be paged.
    pub unmanaged: u64,
    /// Faults served.
    pub pgfault: u64,
    /// Those of them that waited for a tier to be read.
    pub pgmajfault: u64,
}

/// Everything published of a group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemSnapshot {
    /// Counters.
    pub stat: MemStat,
    /// Members.
    pub members: Vec<MemberStat>,
}

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be opened or mapped.
    #[error("map the group table {path}")]
    Map {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is no table of this version.
    #[error("{0} is not a memory group's table of this version")]
    Magic(String),
}

/// The mapped table.
#[derive(Debug)]
pub struct MemTable {
    words: SharedWords,
}

impl MemTable {
    /// Makes the table's file in `dir`, or opens the one that is there.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn create(dir: &Path) -> Result<Self, TableError> {
        let table = Self::map(dir, SharedWords::create)?;
        match table.header(H::Magic).compare_exchange(0, MAGIC, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(MAGIC) => Ok(table),
            Err(_) => Err(TableError::Magic(dir.join(TABLE).display().to_string())),
        }
    }

    /// Opens the table's file in `dir` for reading.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn open(dir: &Path) -> Result<Self, TableError> {
        let table = Self::map(dir, SharedWords::open_read)?;
        if table.header(H::Magic).load(Ordering::Acquire) != MAGIC {
            return Err(TableError::Magic(dir.join(TABLE).display().to_string()));
        }
        Ok(table)
    }

    fn map(
        dir: &Path,
        map: impl FnOnce(&Path, usize) -> std::io::Result<SharedWords>,
    ) -> Result<Self, TableError> {
        let path = dir.join(TABLE);
        let words = map(&path, WORDS)
            .map_err(|source| TableError::Map { path: path.display().to_string(), source })?;
        Ok(Self { words })
    }

    fn header(&self, word: H) -> &AtomicU64 {
        &self.words.words()[word as usize]
    }

    /// Publishes who keeps the group.
    pub fn set_keeper_pid(&self, pid: i32) {
        self.header(H::KeeperPid).store(u64::from(pid as u32), Ordering::SeqCst);
    }

    /// Gives the keeper's PID, 0 before there is one.
    pub fn keeper_pid(&self) -> i32 {
        self.header(H::KeeperPid).load(Ordering::SeqCst) as i32
    }

    /// Publishes who serves the group.
    pub fn set_worker_pid(&self, pid: i32) {
        self.header(H::WorkerPid).store(u64::from(pid as u32), Ordering::SeqCst);
    }

    /// Gives the worker's PID, 0 before there is one.
    pub fn worker_pid(&self) -> i32 {
        self.header(H::WorkerPid).load(Ordering::SeqCst) as i32
    }

    /// Says that the group is at its end.
    pub fn set_dissolved(&self) {
        self.header(H::Dissolved).store(1, Ordering::SeqCst);
    }

    /// Whether the group is at its end.
    pub fn is_dissolved(&self) -> bool {
        self.header(H::Dissolved).load(Ordering::SeqCst) != 0
    }

    /// Publishes the group's counters. Does not allocate.
    pub fn set_stat(&self, stat: &MemStat) {
        self.publish(H::StatEdition, STAT_AT, STAT_WORDS, |half| {
            let mut stat = *stat;
            for (word, value) in half.iter().zip(stat.fields()) {
                word.store(*value, Ordering::Relaxed);
            }
        });
    }

    /// Reads the group's counters.
    pub fn stat(&self) -> MemStat {
        self.read(H::StatEdition, STAT_AT, STAT_WORDS, |half| {
            let mut stat = MemStat::default();
            for (word, value) in half.iter().zip(stat.fields()) {
                *value = word.load(Ordering::Relaxed);
            }
            stat
        })
    }

    /// Publishes the group's members; those after the first [`CAPACITY`] are left out. Does not allocate.
    pub fn set_members(&self, members: &[MemberStat]) {
        let members = &members[..members.len().min(CAPACITY)];
        self.publish(H::MembersEdition, MEMBERS_AT, MEMBERS_WORDS, |half| {
            half[0].store(members.len() as u64, Ordering::Relaxed);
            for (row, m) in half[8..].chunks(ROW_WORDS).zip(members) {
                let values = [
                    u64::from(m.pid as u32),
                    m.start_time,
                    m.resident,
                    m.swapped,
                    m.unmanaged,
                    m.pgfault,
                    m.pgmajfault,
                ];
                for (word, value) in row.iter().zip(values) {
                    word.store(value, Ordering::Relaxed);
                }
            }
        });
    }

    /// Reads the group's members.
    pub fn members(&self) -> Vec<MemberStat> {
        self.read(H::MembersEdition, MEMBERS_AT, MEMBERS_WORDS, |half| {
            let nr = half[0].load(Ordering::Relaxed).min(CAPACITY as u64) as usize;
            half[8..]
                .chunks(ROW_WORDS)
                .take(nr)
                .map(|row| {
                    let load = |at: usize| row[at].load(Ordering::Relaxed);
                    MemberStat {
                        pid: load(0) as i32,
                        start_time: load(1),
                        resident: load(2),
                        swapped: load(3),
                        unmanaged: load(4),
                        pgfault: load(5),
                        pgmajfault: load(6),
                    }
                })
                .filter(|m| m.pid > 0)
                .collect()
        })
    }

    /// Reads everything published; counters and members are each consistent by themselves.
    pub fn snapshot(&self) -> MemSnapshot {
        MemSnapshot { stat: self.stat(), members: self.members() }
    }

    fn half(&self, edition: u64, at: usize, len: usize) -> &[AtomicU64] {
        let start = at + (edition % 2) as usize * len;
        &self.words.words()[start..start + len]
    }

    fn publish(&self, edition: H, at: usize, len: usize, write: impl FnOnce(&[AtomicU64])) {
        let edition = self.header(edition);
        let next = edition.load(Ordering::Relaxed).wrapping_add(1);
        // Orders the last edition's number before what is written over the one before it: see `read`.
        fence(Ordering::Release);
        write(self.half(next, at, len));
        edition.store(next, Ordering::Release);
    }

    fn read<T>(&self, edition: H, at: usize, len: usize, read: impl Fn(&[AtomicU64]) -> T) -> T {
        let edition = self.header(edition);
        let mut tries = 0;
        loop {
            let before = edition.load(Ordering::Acquire);
            let value = read(self.half(before, at, len));
            fence(Ordering::Acquire);
            tries += 1;
            if edition.load(Ordering::Relaxed) == before || tries == TRIES {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(n: u64) -> MemStat {
        let mut stat = MemStat::default();
        stat.fields().into_iter().for_each(|field| *field = n);
        stat
    }

    fn member(pid: i32) -> MemberStat {
        MemberStat { pid, start_time: 1, resident: 2, swapped: 3, unmanaged: 4, pgfault: 5, pgmajfault: 6 }
    }

    #[test]
    fn published_group_is_read_by_another_mapping() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let table = MemTable::create(dir.path()).expect("table");
        let reader = MemTable::open(dir.path()).expect("table");
        assert_eq!(reader.snapshot(), MemSnapshot::default());

        table.set_keeper_pid(41);
        table.set_worker_pid(42);
        table.set_stat(&stat(9));
        table.set_members(&[member(290), member(293)]);
        table.set_members(&[member(290)]);

        assert_eq!((reader.keeper_pid(), reader.worker_pid()), (41, 42));
        assert_eq!(reader.snapshot(), MemSnapshot { stat: stat(9), members: vec![member(290)] });
    }

    #[test]
    fn more_members_than_rows_are_cut_off() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let table = MemTable::create(dir.path()).expect("table");

        table.set_members(&vec![member(7); CAPACITY + 1]);

        assert_eq!(table.members().len(), CAPACITY);
    }

    #[test]
    fn garbage_is_read_without_harm() {
        let dir = tempfile::tempdir().expect("temporary directory");
        drop(MemTable::create(dir.path()).expect("table"));
        let path = dir.path().join(TABLE);
        let mut bytes = vec![0xff; WORDS * 8];
        bytes[..8].copy_from_slice(&MAGIC.to_ne_bytes());
        std::fs::write(&path, bytes).expect("write");

        let table = MemTable::open(dir.path()).expect("table");

        assert_eq!(table.stat(), stat(u64::MAX));
        assert_eq!(table.members(), vec![]);
    }

    #[test]
    fn edition_is_never_torn() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let table = MemTable::create(dir.path()).expect("table");
        table.set_stat(&stat(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..20_000 {
                    table.set_stat(&stat(n));
                    std::thread::yield_now();
                }
            });
            let reader = MemTable::open(dir.path()).expect("table");
            while table.stat().current < 19_999 {
                let seen = reader.stat();
                assert_eq!(seen, stat(seen.current));
            }
        });
    }

    #[test]
    fn file_of_another_kind_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join(TABLE), vec![1u8; WORDS * 8]).expect("write");

        assert!(matches!(MemTable::create(dir.path()), Err(TableError::Magic(_))));
    }
}
