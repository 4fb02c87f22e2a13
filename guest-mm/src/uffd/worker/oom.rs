//! What is done when nothing can be evicted.

use host_sys::process::stat;

use super::super::proto::Event;
use super::Worker;
use super::members::{Kind, Member};
use crate::{Candidate, Nanos, OomChoice, PAGE_SIZE};

/// How long nothing can be evicted before a member is killed.
const OOM_PATIENCE_NS: u64 = 200_000_000;
/// How long children that are still to have an agent keep what they share with others in place.
const REACH_PATIENCE_NS: u64 = 50_000_000;

impl Worker {
    /// Whether nothing could be evicted for some time. What only lasts a moment, like a mapping that changes or a thread that cannot be
    /// stopped while it waits for us, is waited for.
    pub(super) fn is_out_of_patience(&mut self) -> bool {
        let now = host_sys::process::now();
        let stuck_for = now.saturating_sub(*self.counters.stuck_since.get_or_insert(now));
        if stuck_for >= REACH_PATIENCE_NS {
            for id in self.spaces.keys() {
                let _ = self.vm.set_reachable(*id, true);
            }
        }
        stuck_for >= OOM_PATIENCE_NS
    }

    /// Kills the member that the pool gains most by, if nothing could be evicted for some time.
    pub(super) fn kill_for_memory(&mut self, reason: &str) -> bool {
        if !self.is_out_of_patience() {
            return false;
        }
        let charged = self.vm.charged();
        self.drop_dead();
        if self.vm.charged() < charged {
            // There is room after all.
            return true;
        }
        self.counters.stuck_since = None;
        self.counters.oom += 1;
        let candidates: Vec<Candidate> =
            self.members.iter().map(|(pid, member)| self.candidate(*pid, member)).collect();
        let pid = match crate::oom_victim(&candidates) {
            OomChoice::Kill { pid, .. } => pid.cast_signed(),
            // The frames of one that is on its way out are free soon.
            OomChoice::Wait { .. } | OomChoice::Nobody => return false,
        };
        let Some(member) = self.members.get(&pid) else { return false };
        let resident = match member.kind {
            Kind::Managed(id) => self.vm.space_stats(id).map_or(0, |s| s.resident) * PAGE_SIZE,
            _ => member.unmanaged * PAGE_SIZE,
        };
        let _ = member.pidfd.signal(libc::SIGKILL);
        self.counters.oom_kill += 1;
        self.on_exit(pid);
        self.tell(Event::OomKill { pid, resident, reason: reason.into() });
        true
    }

    fn candidate(&self, pid: i32, member: &Member) -> Candidate {
        let pages = match member.kind {
            Kind::Managed(id) => self.vm.space_stats(id).map_or(0, |s| s.resident + s.swapped),
            _ => 0,
        };
        let stat = stat(pid).ok();
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
            .ok()
            .flatten()
            .map_or(100, i64::unsigned_abs);
        let started = member.start_time.saturating_mul(1_000_000_000 / ticks);
        let adjust = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap_or_default();
        let adjust: i32 = adjust.trim().parse().unwrap_or(0);
        Candidate {
            pid: pid.cast_unsigned(),
            pages: pages + member.unmanaged,
            child_pages: 0,
            nr_children: 0,
            cpu_time: Nanos(host_sys::process::cpu_time(pid).unwrap_or(0)),
            run_time: Nanos(host_sys::process::now().saturating_sub(started)),
            nice: stat.map_or(0, |s| s.nice),
            is_root: false,
            oom_adj: if adjust <= -1000 { -17 } else { (adjust / 64) as i8 },
            is_exiting: stat.is_none_or(|s| s.is_exiting()),
        }
    }
}
