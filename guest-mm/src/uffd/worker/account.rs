//! Levels and counters: what of the members cannot be paged, and what is published.

use super::super::proto::Event;
use super::super::table::{MemStat, MemberStat};
use super::Worker;
use super::members::Kind;
use super::space::Space;
use crate::PAGE_SIZE;

/// Members looked at in one turn: each costs some 100 µs.
const LOOKS: usize = 8;

/// What is counted outside of the core.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) max_events: u64,
    pub(super) oom: u64,
    pub(super) oom_kill: u64,
    pub(super) lost_records: u64,
    pub(super) read_errors: u64,
    /// Nothing more can be evicted before something changes.
    pub(super) is_stuck: bool,
    /// That was told.
    is_told: bool,
    /// Since when nothing could be evicted though there was need.
    pub(super) stuck_since: Option<u64>,
    /// The member that is looked at next.
    next: i32,
}

impl Counters {
    /// A page could not be read back: whoever needs it waits, and it is tried again.
    pub(super) fn read_failed(&mut self, error: &std::io::Error) {
        // The first ones only: it is tried a thousand times a second.
        if self.read_errors < 16 {
            tracing::warn!(%error, "a page cannot be read back");
        }
        self.read_errors += 1;
    }
}

impl Worker {
    /// Measures levels and publishes.
    pub(super) fn measure(&mut self, now: u64) {
        self.counters.is_told &= self.vm.excess() > 0;
        self.pressure.update(now.saturating_sub(self.measured_at) / 1000);
        self.measured_at = now;
        self.look_at_unmanaged();
        self.drop_dead();
        // Forked children that live longer than a moment get an agent too.
        let journal = &self.journal;
        for space in self.spaces.values_mut().filter(|s| s.inside.is_none()) {
            let _ = space.ensure_inside(journal);
        }
        // What is told of the group is told when it is inside its pool.
        self.drain_excess(now);
        self.store.close_unused(&self.journal, |tier| !self.vm.is_drained(tier));
        self.publish();
    }

    /// Counts what members have beside what is paged.
    fn look_at_unmanaged(&mut self) {
        let next = self.counters.next;
        let mut pids: Vec<i32> =
            self.members.range(next..).chain(self.members.range(..next)).map(|(p, _)| *p).collect();
        self.counters.next = pids.get(LOOKS).copied().unwrap_or(0);
        pids.truncate(LOOKS);
        for pid in pids {
            let Some(member) = self.members.get(&pid) else { continue };
            let pages = match member.kind {
                Kind::Managed(id) => self.spaces.get(&id).and_then(Space::unmanaged),
                Kind::Sharing(_) => Some(0),
                Kind::Unmanaged(_) => private_and_shared(pid),
            };
            if let Some(member) = self.members.get_mut(&pid) {
                member.unmanaged = pages.unwrap_or(member.unmanaged);
            }
        }
        self.vm.charge_unmanaged(self.members.values().map(|m| m.unmanaged).sum());
    }

    pub(super) fn publish(&mut self) {
        let stats = self.vm.stats();
        let unmanaged: u64 = self.members.values().map(|m| m.unmanaged).sum();
        let stall = self.pressure.stall();
        self.table.set_stat(&MemStat {
            current: self.vm.charged() * PAGE_SIZE,
            swap_current: stats.swapped * PAGE_SIZE,
            anon: stats.anon * PAGE_SIZE,
            zswap: stats.pool * PAGE_SIZE,
            zswapped: stats.zswapped * PAGE_SIZE,
            unmanaged: unmanaged * PAGE_SIZE,
            pgfault: stats.pgfault,
            pgmajfault: stats.pgmajfault,
            pgsteal: stats.pgsteal,
            pgscan: stats.pgscan,
            pswpin: stats.pswpin,
            pswpout: stats.pswpout,
            rescued: stats.rescued,
            readahead: stats.readahead,
            readahead_hit: stats.readahead_hit,
            worker_usec: host_sys::process::own_cpu_time() / 1000,
            max_events: self.counters.max_events,
            oom: self.counters.oom,
            oom_kill: self.counters.oom_kill,
            some: stall,
            full: stall,
        });
        let members: Vec<MemberStat> = self
            .members
            .iter()
            .map(|(pid, member)| {
                let space = match member.kind {
                    Kind::Managed(id) => self.vm.space_stats(id).ok(),
                    _ => None,
                };
                MemberStat {
                    pid: *pid,
                    start_time: member.start_time,
                    resident: space.as_ref().map_or(0, |s| s.resident) * PAGE_SIZE,
                    swapped: space.as_ref().map_or(0, |s| s.swapped) * PAGE_SIZE,
                    unmanaged: member.unmanaged * PAGE_SIZE,
                    pgfault: space.as_ref().map_or(0, |s| s.pgfault),
                    pgmajfault: space.as_ref().map_or(0, |s| s.pgmajfault),
                }
            })
            .collect();
        self.table.set_members(&members);
    }

    /// The group is above its limit and nothing can be evicted.
    pub(super) fn stuck(&mut self, excess: u64) {
        if !self.is_out_of_patience() {
            return;
        }
        if self.members.values().map(|m| m.unmanaged).sum::<u64>() >= excess {
            self.kill_for_memory("memory that cannot be paged exceeds the limit");
        } else if !std::mem::replace(&mut self.counters.is_told, true) {
            self.tell(Event::Degraded {
                reason: format!("{excess} pages above the limit cannot be evicted"),
            });
        }
    }
}

/// Resident pages of a process that are its own or shared memory, its program's file not counted.
fn private_and_shared(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kib("RssAnon:")? + kib("RssShmem:")?) / (PAGE_SIZE / 1024))
}
