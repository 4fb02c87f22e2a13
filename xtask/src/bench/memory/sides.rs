//! Where a program runs: in a pool of ours, in a memory cgroup of the kernel's, or in none.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use super::peer::{MemCgroup, SWAP_DIR, Swap, SwapFile, Zram};
use super::programs::{Held, Outcome, Program};
use crate::bench::Side;
use crate::bench::ours::Group;

pub(super) const MIB: u64 = 1 << 20;

/// What is swapped to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tier {
    File,
    Compressed,
}

impl Tier {
    /// What the peer is called.
    pub(super) const fn peer(self) -> &'static str {
        match self {
            Self::File => "memcg + swap file",
            Self::Compressed => "memcg + zram",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Compressed => "lz4",
        }
    }

    /// For rows.
    pub(super) fn of(self, what: &str) -> String {
        format!("{what}, {} tier", self.word())
    }
}

/// One side with what it swaps to. Groups in it are dropped before it.
pub(super) struct Place<'a> {
    bench: &'a Bench,
    tier: Tier,
    /// The peer's.
    swap: Option<Swap>,
    pages_out_before: u64,
}

/// A group with a limit on one of the sides.
pub(super) enum Fence<'a> {
    Ours(Group<'a>),
    Peer { _ballast: Option<Held>, cgroup: MemCgroup },
}

impl Bench {
    /// Gets a side ready.
    pub(super) fn place(&self, side: Side, tier: Tier) -> Result<Place<'_>> {
        let swap = match (side, tier) {
            (Side::Ours, _) => None,
            (Side::Peer, Tier::File) => Some(Swap::File { _file: SwapFile::new(1024 * MIB)? }),
            (Side::Peer, Tier::Compressed) => Some(Swap::Zram(Zram::new(1024 * MIB)?)),
        };
        Ok(Place { bench: self, tier, swap, pages_out_before: host_pages_out()? })
    }

    /// Runs a program in a group to its end, and makes sure that it was paged.
    pub(super) fn run_paged(&self, side: Side, tier: Tier, mib: u64, program: &Program) -> Result<Paged> {
        let place = self.place(side, tier)?;
        let fence = place.group("paged", mib * MIB)?;
        let outcome = fence.run(program)?;
        let mut paged = Paged { outcome, worker_usec: 0, nr_faults: 0 };
        if let Fence::Ours(group) = &fence {
            paged.worker_usec = group.key("memory.stat", "worker_usec")?;
            paged.nr_faults = group.key("memory.stat", "pgmajfault")?;
        }
        let pages_out = place.pages_out(&fence)?;
        ensure!(pages_out > 0, "nothing was paged: this says nothing of {tier:?} on {side:?}");
        Ok(paged)
    }
}

/// A program that was paged.
pub(super) struct Paged {
    pub(super) outcome: Outcome,
    /// Ours.
    pub(super) worker_usec: u64,
    /// Ours.
    pub(super) nr_faults: u64,
}

impl Place<'_> {
    /// A group that may have so many bytes.
    pub(super) fn group(&self, name: &str, limit: u64) -> Result<Fence<'_>> {
        let Some(swap) = &self.swap else {
            let file = format!("file:4G:{SWAP_DIR}");
            let tiers = match self.tier {
                Tier::File => file,
                // Nearly all of the limit: what is used of it is the policy's choice, as it is the kernel's.
                Tier::Compressed => format!("lz4:{} {file}", limit / 4 * 3),
            };
            return Ok(Fence::Ours(self.bench.daemon.pool(name, limit, &tiers)?));
        };
        let cgroup = self.bench.controller.group(name, limit)?;
        let ballast = match swap {
            Swap::Zram(zram) => Some(zram.charge_to(&cgroup)?),
            Swap::File { .. } => None,
        };
        Ok(Fence::Peer { _ballast: ballast, cgroup })
    }

    fn pages_out(&self, fence: &Fence<'_>) -> Result<u64> {
        match fence {
            Fence::Ours(group) => group.key("memory.stat", "pswpout"),
            Fence::Peer { .. } => Ok(host_pages_out()?.saturating_sub(self.pages_out_before)),
        }
    }
}

impl Fence<'_> {
    pub(super) fn take(&self, pid: u32) -> Result<()> {
        match self {
            Self::Ours(group) => group.take(pid),
            Self::Peer { cgroup, .. } => cgroup.take(pid),
        }
    }

    /// Lowers the limit, and returns when it holds.
    pub(super) fn limit(&self, bytes: u64) -> Result<()> {
        match self {
            Self::Ours(group) => group.write("memory.max", &bytes.to_string()),
            Self::Peer { cgroup, .. } => cgroup.limit(bytes),
        }
    }

    /// Starts a program inside.
    pub(super) fn start(&self, program: &Program) -> Result<Held> {
        let mut held = Held::start(program)?;
        self.take(held.pid())?;
        held.go()?;
        Ok(held)
    }

    /// Runs a program inside, to its end.
    pub(super) fn run(&self, program: &Program) -> Result<Outcome> {
        self.start(program)?.end()
    }
}

/// Runs a program in no group, to its end.
pub(super) fn run_bare(program: &Program) -> Result<Outcome> {
    let mut held = Held::start(program)?;
    held.go()?;
    held.end()
}

fn host_pages_out() -> Result<u64> {
    let text = fs::read_to_string("/proc/vmstat").context("read /proc/vmstat")?;
    let line = text.lines().find_map(|l| l.strip_prefix("pswpout "));
    line.and_then(|n| n.parse().ok()).context("this kernel cannot swap: there is no pswpout")
}
