//! Made-up memory workers, for tests of everything above them.

use std::sync::Arc;
use std::time::Duration;

use guest_mm::uffd::proto::{CONFIG, UnmanagedRange};
use guest_mm::uffd::table::{MemSnapshot, MemStat, MemberStat};

use super::{Mem, MemDriver, MemView};
use crate::errno::{Refusal, Why};
use crate::groups::fake::{FakeKind, FakeOf, Fakes};

/// A made-up memory worker.
pub type FakeMemWorker = FakeOf<Mem>;
/// Starts made-up memory workers.
pub type FakeMemLauncher = Fakes<Mem>;

/// What a made-up memory worker remembers beside what all do.
#[derive(Debug, Default)]
pub struct Extra {
    /// What it was told to evict.
    pub reclaimed: u64,
    /// How much it can evict.
    pub evictable: u64,
    /// How long that takes.
    pub eviction_takes: Duration,
}

impl FakeKind for Mem {
    type Member = MemberStat;
    type Stat = MemStat;
    type Extra = Extra;

    const PIDS: i32 = 910_000;
    const CONFIG: &'static str = CONFIG;

    fn member(pid: i32, start_time: u64) -> MemberStat {
        MemberStat {
            pid,
            start_time,
            resident: 8192,
            unmanaged: 4096,
            swapped: 12_288,
            ..MemberStat::default()
        }
    }

    fn view(stat: MemStat, members: Vec<MemberStat>) -> MemView {
        MemView::from(MemSnapshot { stat, members })
    }

    fn driver(worker: Arc<FakeMemWorker>) -> Arc<dyn MemDriver> {
        worker
    }
}

impl MemDriver for FakeMemWorker {
    fn reclaim(&self, bytes: u64) -> Result<(), Refusal> {
        std::thread::sleep(self.inside(|inside| inside.extra.eviction_takes));
        self.inside(|inside| {
            let done = bytes.min(inside.extra.evictable);
            inside.extra.reclaimed += done;
            inside.extra.evictable -= done;
            if done == bytes {
                Ok(())
            } else {
                Err(Refusal::new(Why::Other(libc::EAGAIN), "no more to evict"))
            }
        })
    }

    fn unmanaged(&self, pid: i32) -> Result<Vec<UnmanagedRange>, Refusal> {
        let range = || UnmanagedRange { start: 0x1000, end: 0x3000, resident: 4096, reason: "locked".into() };
        match self.pids().contains(&pid) {
            true => Ok(vec![range()]),
            false => Err(Refusal::new(Why::NoProcess, format!("{pid} is no member"))),
        }
    }

    fn stat(&self) -> MemStat {
        self.inside(|inside| inside.stat)
    }
}
