//! The shared file in which a worker publishes its group.
//!
//! It has two readers. The daemon shows it in the control tree without asking the worker. The keeper
//! (and `compartment recover`) reads from it, when the worker has died, who is parked and how to resume them.
//! There is one writer, the worker. The file lies in the group's state directory, mode 0600.
//!
//! Layout: 64-bit words, little trust needed: every word is read atomically and any value is legal to read.
//! A header of [`HEADER_WORDS`], then slots of [`SLOT_WORDS`]. A slot's first word is a sequence number, odd while the slot is
//! being written.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use host_sys::SharedWords;
use serde::{Deserialize, Serialize};

use super::proto::GuestClass;
use crate::types::TaskState;

/// The file's name in a group's state directory.
pub const TABLE: &str = "table";
/// Words before the first slot.
pub const HEADER_WORDS: usize = 64;
/// Words of a slot.
pub const SLOT_WORDS: usize = 20;
/// The most tasks a group may have.
pub const CAPACITY: usize = 32_768;

const MAGIC: u64 = 0x0001_5442_5453_4f47;

/// Words of the header.
#[derive(Clone, Copy)]
enum H {
    Magic,
    /// Slots ever used: readers look no further.
    Used,
    WorkerPid,
    KeeperPid,
    Usage,
    Members,
    Tasks,
    Switches,
    Throttled,
    ThrottledTime,
    WorkerTime,
    Excess,
    WorstWindow,
    LongestPark,
    Asked,
    Got,
    Overhead,
    Mode,
    Since,
    Parks,
    /// Not 0: the group is at its end, and nobody is to start a worker for it.
    Dissolved,
    /// The worker's sign of life, see [`Table::set_beat`].
    Beat,
    /// Not 0: the keeper looks at the beat; else it sleeps until it is called.
    Watched,
    /// The keeper's sign of life, see [`Table::set_keeper_beat`].
    KeeperBeat,
    /// Not 0: somebody wants to run.
    Busy,
}

/// Words of a slot.
#[derive(Clone, Copy)]
enum S {
    Seq,
    /// pid << 32 | tid; 0 is a free slot.
    Ids,
    StartTime,
    /// How to resume, see [`Parked`].
    Parked,
    /// nice | class | rt priority | state | static_prio | prio | bonus | interactive, a byte each.
    Sched,
    SleepAvg,
    SliceLeft,
    Usage,
    Wait,
    Switches,
    /// What the host had before: nice | policy << 8 | rt priority << 16 | reset on fork << 24 | slice << 32.
    Host,
    /// Not 0: a nested group.
    Group,
    Runnable,
}

/// How a parked task is resumed by whoever outlives its worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parked {
    /// It is not parked.
    No,
    /// Write `0` to this file descriptor, a `cgroup.freeze`.
    Freeze(i32),
    /// Send `SIGCONT` to the process.
    Stop,
}

impl Parked {
    fn pack(self) -> u64 {
        match self {
            Self::No => 0,
            Self::Freeze(fd) => 1 << 32 | u64::from(fd as u32),
            Self::Stop => 2 << 32,
        }
    }

    fn unpack(word: u64) -> Self {
        match word >> 32 {
            1 => Self::Freeze(word as u32 as i32),
            2 => Self::Stop,
            _ => Self::No,
        }
    }
}

/// What the host gave a task before it joined, to be given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HostParams {
    /// Nice.
    pub nice: i8,
    /// `SCHED_*`.
    pub policy: u8,
    /// Real-time priority.
    pub rt_priority: u8,
    /// Whether its children get ordinary parameters (`SCHED_RESET_ON_FORK`).
    pub is_reset_on_fork: bool,
    /// The slice in nanoseconds that it has wished for, 0 for the kernel's own.
    pub runtime_ns: u32,
}

impl HostParams {
    /// Gives what the host would have given a child.
    #[must_use]
    pub fn forked(self) -> Self {
        if !self.is_reset_on_fork {
            return self;
        }
        let is_real_time = matches!(self.policy, 1 | 2);
        Self {
            nice: if is_real_time { 0 } else { self.nice.max(0) },
            policy: if is_real_time { 0 } else { self.policy },
            ..Self::default()
        }
    }

    fn pack(self) -> u64 {
        let [a, b, c, d] = self.runtime_ns.to_le_bytes();
        let reset = u8::from(self.is_reset_on_fork);
        u64::from_le_bytes([self.nice as u8, self.policy, self.rt_priority, reset, a, b, c, d])
    }

    fn unpack(word: u64) -> Self {
        let [nice, policy, rt_priority, reset, a, b, c, d] = word.to_le_bytes();
        Self {
            nice: nice as i8,
            policy,
            rt_priority,
            is_reset_on_fork: reset != 0,
            runtime_ns: u32::from_le_bytes([a, b, c, d]),
        }
    }
}

/// One task (thread) of a group as it is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its process.
    pub pid: i32,
    /// Its thread; equal to `pid` for the first one.
    pub tid: i32,
    /// The process's start time in clock ticks after boot.
    pub start_time: u64,
    /// How it is resumed.
    pub parked: Parked,
    /// Guest nice.
    pub nice: i8,
    /// Guest class.
    pub class: GuestClass,
    /// Where it stands.
    pub state: TaskState,
    /// Priority from nice alone, 100..=139.
    pub static_prio: u8,
    /// Priority it is queued by, 0..=139.
    pub prio: u8,
    /// Interactivity bonus, 0..=10.
    pub bonus: u8,
    /// Whether the policy holds it to be interactive.
    pub is_interactive: bool,
    /// Sleep average, ns.
    pub sleep_avg_ns: u64,
    /// What is left of its slice, ns of CPU time.
    pub slice_left_ns: u64,
    /// CPU time used as a member, ns.
    pub usage_ns: u64,
    /// Time it was runnable and not current, ns.
    pub wait_ns: u64,
    /// How often it was made current.
    pub nr_switches: u64,
    /// What the host gave it before.
    pub host: HostParams,
    /// Whether it is a nested group, which the process only stands for.
    pub is_group: bool,
    /// Whether it was runnable on the host, by the worker's knowledge.
    pub is_runnable: bool,
}

/// Counters of a group; times in nanoseconds since the group was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GroupStat {
    /// The worker's PID.
    pub worker_pid: i32,
    /// The keeper's PID.
    pub keeper_pid: i32,
    /// CPU time of all members, past ones included.
    pub usage_ns: u64,
    /// Processes in the group.
    pub nr_members: u64,
    /// Threads in the group.
    pub nr_tasks: u64,
    /// Changes of a vcpu's current.
    pub nr_switches: u64,
    /// Times the cap stopped the group.
    pub nr_throttled: u64,
    /// Time for which the cap stopped it.
    pub throttled_ns: u64,
    /// CPU time of the worker itself.
    pub worker_ns: u64,
    /// Time for which more members were runnable on the host than there are vcpus, over the last 10 s.
    pub excess_ns: u64,
    /// Longest single such window, over the last 10 s.
    pub worst_window_ns: u64,
    /// Longest time that a runnable member was parked, over the last 10 s.
    pub longest_park_ns: u64,
    /// CPU time that the group was to have over the last 10 s.
    pub asked_ns: u64,
    /// CPU time that it had.
    pub got_ns: u64,
    /// CPU time of the worker over the last 10 s.
    pub overhead_ns: u64,
    /// Length of what "the last 10 s" was, shorter in a young group.
    pub window_ns: u64,
    /// Number of parks, past ones included.
    pub nr_parks: u64,
    /// The driver's parts, see [`pack_mode`].
    pub mode: u64,
}

/// Everything published of a group at one moment (each slot of it consistent by itself).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Counters.
    pub stat: GroupStat,
    /// Tasks, in slot order.
    pub members: Vec<Member>,
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
    #[error("{0} is not a group table of this version")]
    Magic(String),
}

/// The mapped table.
#[derive(Debug)]
pub struct Table {
    words: SharedWords,
}

impl Table {
    /// Makes the table's file in `dir`, or opens the one that is there.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn create(dir: &Path) -> Result<Self, TableError> {
        let path = dir.join(TABLE);
        let words = SharedWords::create(&path, HEADER_WORDS + CAPACITY * SLOT_WORDS)
            .map_err(|source| TableError::Map { path: path.display().to_string(), source })?;
        let table = Self { words };
        match table.header(H::Magic).compare_exchange(0, MAGIC, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(MAGIC) => Ok(table),
            Err(_) => Err(TableError::Magic(path.display().to_string())),
        }
    }

    /// Opens the table's file in `dir` for reading.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn open(dir: &Path) -> Result<Self, TableError> {
        let path = dir.join(TABLE);
        let words = SharedWords::open_read(&path, HEADER_WORDS + CAPACITY * SLOT_WORDS)
            .map_err(|source| TableError::Map { path: path.display().to_string(), source })?;
        let table = Self { words };
        if table.header(H::Magic).load(Ordering::Acquire) != MAGIC {
            return Err(TableError::Magic(path.display().to_string()));
        }
        Ok(table)
    }

    fn header(&self, word: H) -> &AtomicU64 {
        &self.words.words()[word as usize]
    }

    fn slot(&self, index: usize, word: S) -> &AtomicU64 {
        &self.words.words()[HEADER_WORDS + index * SLOT_WORDS + word as usize]
    }

    fn used(&self) -> usize {
        (self.header(H::Used).load(Ordering::Acquire) as usize).min(CAPACITY)
    }

    /// Publishes a task in slot `index` (below [`CAPACITY`]), except for `parked`, which [`Table::set_parked`] alone writes.
    pub fn write(&self, index: usize, m: &Member) {
        let seq = self.slot(index, S::Seq);
        let before = seq.load(Ordering::Relaxed);
        seq.store(before.wrapping_add(1) | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let store = |word, value| self.slot(index, word).store(value, Ordering::Relaxed);
        store(S::StartTime, m.start_time);
        store(S::Sched, pack_sched(m));
        store(S::SleepAvg, m.sleep_avg_ns);
        store(S::SliceLeft, m.slice_left_ns);
        store(S::Usage, m.usage_ns);
        store(S::Wait, m.wait_ns);
        store(S::Switches, m.nr_switches);
        store(S::Host, m.host.pack());
        store(S::Group, u64::from(m.is_group));
        store(S::Runnable, u64::from(m.is_runnable));
        store(S::Ids, (m.pid as u32 as u64) << 32 | m.tid as u32 as u64);
        seq.store((before.wrapping_add(1) | 1).wrapping_add(1), Ordering::Release);
        self.header(H::Used).fetch_max(index as u64 + 1, Ordering::AcqRel);
    }

    /// Frees a slot.
    pub fn clear(&self, index: usize) {
        self.slot(index, S::Ids).store(0, Ordering::Release);
        self.slot(index, S::Parked).store(0, Ordering::Release);
    }

    /// Notes how the task in slot `index` is to be resumed. To be called *before* it is parked, and *after* it was resumed.
    pub fn set_parked(&self, index: usize, parked: Parked) {
        self.slot(index, S::Parked).store(parked.pack(), Ordering::SeqCst);
    }

    /// Calls `resume` for every task that is noted as parked. For whoever outlives the worker; does not allocate.
    pub fn for_each_parked(&self, mut resume: impl FnMut(usize, i32, u64, Parked)) {
        for index in 0..self.used() {
            let parked = Parked::unpack(self.slot(index, S::Parked).load(Ordering::SeqCst));
            if parked != Parked::No {
                let pid = (self.slot(index, S::Ids).load(Ordering::SeqCst) >> 32) as i32;
                resume(index, pid, self.slot(index, S::StartTime).load(Ordering::SeqCst), parked);
            }
        }
    }

    /// Says that the group is at its end.
    pub fn set_dissolved(&self) {
        self.header(H::Dissolved).store(1, Ordering::SeqCst);
    }

    /// Whether the group is at its end.
    pub fn is_dissolved(&self) -> bool {
        self.header(H::Dissolved).load(Ordering::SeqCst) != 0
    }

    /// The worker's sign of life: somebody is held off the host's runqueue, and until `beat` (monotonic clock, ns) nothing is to be heard of
    /// the worker; 0 while nobody is. Says whether the keeper has to be called to look.
    #[must_use]
    pub fn set_beat(&self, beat: u64) -> bool {
        self.header(H::Beat).store(beat, Ordering::SeqCst);
        beat != 0 && self.header(H::Watched).load(Ordering::SeqCst) == 0
    }

    /// Until when the worker may be silent; 0 while that harms nobody.
    pub fn beat(&self) -> u64 {
        self.header(H::Beat).load(Ordering::SeqCst)
    }

    /// The keeper looks from now on, or will sleep until it is called. To be followed by another look at the beat in the latter case.
    pub fn set_watched(&self, is_watched: bool) {
        self.header(H::Watched).store(u64::from(is_watched), Ordering::SeqCst);
    }

    /// The keeper's sign of life: until then it will have looked at the worker again; 0 while it sleeps until it is called.
    pub fn set_keeper_beat(&self, beat: u64) {
        self.header(H::KeeperBeat).store(beat, Ordering::SeqCst);
    }

    /// Until when the keeper may be silent; 0 while it sleeps.
    pub fn keeper_beat(&self) -> u64 {
        self.header(H::KeeperBeat).load(Ordering::SeqCst)
    }

    /// Whether somebody wants to run, as the worker sees it at any moment.
    pub fn set_busy(&self, is_busy: bool) {
        self.header(H::Busy).store(u64::from(is_busy), Ordering::Release);
    }

    /// Whether somebody wanted to run when the worker looked last.
    pub fn is_busy(&self) -> bool {
        self.header(H::Busy).load(Ordering::Acquire) != 0
    }

    /// Whether anybody is noted as parked.
    pub fn has_parked(&self) -> bool {
        let mut has_parked = false;
        self.for_each_parked(|_, _, _, _| has_parked = true);
        has_parked
    }

    /// Frees every slot, for a worker that starts anew.
    pub fn clear_all(&self) {
        (0..self.used()).for_each(|index| self.clear(index));
    }

    /// Publishes the group's counters.
    pub fn write_stat(&self, s: &GroupStat) {
        let store = |word, value| self.header(word).store(value, Ordering::Relaxed);
        store(H::WorkerPid, s.worker_pid as u32 as u64);
        store(H::KeeperPid, s.keeper_pid as u32 as u64);
        store(H::Usage, s.usage_ns);
        store(H::Members, s.nr_members);
        store(H::Tasks, s.nr_tasks);
        store(H::Switches, s.nr_switches);
        store(H::Throttled, s.nr_throttled);
        store(H::ThrottledTime, s.throttled_ns);
        store(H::WorkerTime, s.worker_ns);
        store(H::Excess, s.excess_ns);
        store(H::WorstWindow, s.worst_window_ns);
        store(H::LongestPark, s.longest_park_ns);
        store(H::Asked, s.asked_ns);
        store(H::Got, s.got_ns);
        store(H::Overhead, s.overhead_ns);
        store(H::Since, s.window_ns);
        store(H::Parks, s.nr_parks);
        store(H::Mode, s.mode);
    }

    /// Reads the group's counters.
    pub fn stat(&self) -> GroupStat {
        let load = |word| self.header(word).load(Ordering::Relaxed);
        GroupStat {
            worker_pid: load(H::WorkerPid) as i32,
            keeper_pid: load(H::KeeperPid) as i32,
            usage_ns: load(H::Usage),
            nr_members: load(H::Members),
            nr_tasks: load(H::Tasks),
            nr_switches: load(H::Switches),
            nr_throttled: load(H::Throttled),
            throttled_ns: load(H::ThrottledTime),
            worker_ns: load(H::WorkerTime),
            excess_ns: load(H::Excess),
            worst_window_ns: load(H::WorstWindow),
            longest_park_ns: load(H::LongestPark),
            asked_ns: load(H::Asked),
            got_ns: load(H::Got),
            overhead_ns: load(H::Overhead),
            window_ns: load(H::Since),
            nr_parks: load(H::Parks),
            mode: load(H::Mode),
        }
    }

    /// Reads one slot; `None` if it is free, or was written all the while.
    pub fn read(&self, index: usize) -> Option<Member> {
        for _ in 0..64 {
            let before = self.slot(index, S::Seq).load(Ordering::Acquire);
            if before & 1 == 1 {
                std::hint::spin_loop();
                continue;
            }
            let load = |word| self.slot(index, word).load(Ordering::Relaxed);
            let ids = load(S::Ids);
            let member = unpack(ids, &load);
            fence(Ordering::Acquire);
            if self.slot(index, S::Seq).load(Ordering::Relaxed) == before {
                return (ids != 0).then_some(member);
            }
        }
        None
    }

    /// Reads everything published.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { stat: self.stat(), members: (0..self.used()).filter_map(|i| self.read(i)).collect() }
    }
}

fn pack_sched(m: &Member) -> u64 {
    let (class, rt) = match m.class {
        GuestClass::Normal => (0, 0),
        GuestClass::Batch => (1, 0),
        GuestClass::Fifo(p) => (2, p),
        GuestClass::Rr(p) => (3, p),
    };
    let state = match m.state {
        TaskState::Running => 0,
        TaskState::Queued => 1,
        TaskState::Expired => 2,
        TaskState::Sleeping => 3,
    };
    u64::from_le_bytes([
        m.nice as u8,
        class,
        rt,
        state,
        m.static_prio,
        m.prio,
        m.bonus,
        u8::from(m.is_interactive),
    ])
}

fn unpack(ids: u64, load: &impl Fn(S) -> u64) -> Member {
    let [nice, class, rt, state, static_prio, prio, bonus, interactive] = load(S::Sched).to_le_bytes();
    Member {
        pid: (ids >> 32) as i32,
        tid: ids as u32 as i32,
        start_time: load(S::StartTime),
        parked: Parked::unpack(load(S::Parked)),
        nice: nice as i8,
        class: match class {
            1 => GuestClass::Batch,
            2 => GuestClass::Fifo(rt),
            3 => GuestClass::Rr(rt),
            _ => GuestClass::Normal,
        },
        state: match state {
            0 => TaskState::Running,
            1 => TaskState::Queued,
            2 => TaskState::Expired,
            _ => TaskState::Sleeping,
        },
        static_prio,
        prio,
        bonus,
        is_interactive: interactive != 0,
        sleep_avg_ns: load(S::SleepAvg),
        slice_left_ns: load(S::SliceLeft),
        usage_ns: load(S::Usage),
        wait_ns: load(S::Wait),
        nr_switches: load(S::Switches),
        host: HostParams::unpack(load(S::Host)),
        is_group: load(S::Group) != 0,
        is_runnable: load(S::Runnable) != 0,
    }
}

/// Packs a mode into one word of the table.
pub fn pack_mode(mode: super::Mode) -> u64 {
    u64::from_le_bytes([
        mode.park as u8,
        mode.handover as u8,
        mode.sensor as u8,
        mode.envelope as u8,
        1,
        0,
        0,
        0,
    ])
}

/// Unpacks a mode; `None` before the worker has chosen.
pub fn unpack_mode(word: u64) -> Option<super::Mode> {
    let [park, handover, sensor, envelope, 1, ..] = word.to_le_bytes() else { return None };
    Some(super::Mode {
        park: *super::Park::ALL.get(park as usize)?,
        handover: *super::Handover::ALL.get(handover as usize)?,
        sensor: *super::Sensor::ALL.get(sensor as usize)?,
        envelope: *super::Envelope::ALL.get(envelope as usize)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member {
        Member {
            pid: 290,
            tid: 293,
            start_time: 7,
            parked: Parked::No,
            nice: -5,
            class: GuestClass::Rr(12),
            state: TaskState::Expired,
            static_prio: 115,
            prio: 110,
            bonus: 9,
            is_interactive: true,
            sleep_avg_ns: 1,
            slice_left_ns: 2,
            usage_ns: 3,
            wait_ns: 4,
            nr_switches: 5,
            host: HostParams {
                nice: -3,
                policy: 3,
                rt_priority: 50,
                is_reset_on_fork: true,
                runtime_ns: 3_000_000,
            },
            is_group: false,
            is_runnable: true,
        }
    }

    #[test]
    fn slot_written_is_read_back() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let table = Table::create(dir.path()).expect("table");

        table.write(4, &member());

        let reader = Table::open(dir.path()).expect("table");
        assert_eq!(reader.snapshot().members, vec![member()]);
    }

    #[test]
    fn child_of_a_task_that_resets_has_ordinary_parameters() {
        let host = HostParams {
            nice: -3,
            policy: 2,
            rt_priority: 50,
            is_reset_on_fork: true,
            runtime_ns: 3_000_000,
        };
        assert_eq!(host.forked(), HostParams::default());
        assert_eq!(
            HostParams { policy: 3, ..host }.forked(),
            HostParams { policy: 3, ..HostParams::default() }
        );
        let kept = HostParams { is_reset_on_fork: false, ..host };
        assert_eq!(kept.forked(), kept);
    }

    #[test]
    fn parked_task_is_found_by_another_mapping() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let table = Table::create(dir.path()).expect("table");
        table.write(2, &member());
        table.set_parked(2, Parked::Freeze(17));

        let mut seen = Vec::new();
        Table::open(dir.path())
            .expect("table")
            .for_each_parked(|i, pid, start, p| seen.push((i, pid, start, p)));

        assert_eq!(seen, vec![(2, 290, 7, Parked::Freeze(17))]);
    }

    #[test]
    fn keeper_that_sleeps_is_called_by_a_beat_and_one_that_looks_is_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (worker, keeper) =
            (Table::create(dir.path()).expect("table"), Table::create(dir.path()).expect("table"));

        assert!(worker.set_beat(7));
        assert_eq!(keeper.beat(), 7);
        keeper.set_watched(true);
        assert!(!worker.set_beat(8));
        keeper.set_watched(false);
        assert!(!worker.set_beat(0), "nobody is held");
    }

    #[test]
    fn file_of_another_kind_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join(TABLE), vec![1u8; (HEADER_WORDS + CAPACITY * SLOT_WORDS) * 8])
            .expect("write");

        assert!(matches!(Table::create(dir.path()), Err(TableError::Magic(_))));
    }
}
