//! One picture: what happened between two snapshots of the tree. No drawing here.

use std::collections::HashMap;
use std::fs;
use std::time::Instant;

use clap::ValueEnum;

use crate::tree::sample::{GroupSample, MemSample};
use crate::tree::{GroupName, Tree, TreeError};
use crate::verbs::ps;

/// What members are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Order {
    /// Share of the last interval, largest first.
    Cpu,
    /// CPU time, largest first.
    Time,
    /// Process number.
    Pid,
    /// Group, then share.
    Group,
}

/// All groups at one moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    at: Instant,
    groups: Vec<GroupSample>,
    /// All CPU time used on the host, in microseconds.
    host_usec: Option<u64>,
}

impl Snapshot {
    /// Reads them.
    ///
    /// # Errors
    /// [`TreeError`] if the groups cannot be listed.
    pub(super) fn read(tree: &Tree) -> Result<Self, TreeError> {
        let at = Instant::now();
        let host_usec = fs::read_to_string("/proc/stat").ok().as_deref().and_then(busy_usec);
        Ok(Self { at, groups: ps::read_all(tree)?, host_usec })
    }
}

/// Adds up user, nice, system, irq and softirq time of all CPUs; guest time is in user already.
fn busy_usec(stat: &str) -> Option<u64> {
    const USEC_PER_TICK: u64 = 10_000;
    let fields: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|f| f.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else { return None };
    Some((user + nice + system + irq + softirq) * USEC_PER_TICK)
}

/// A group in the picture. Shares are percent of one CPU.
#[derive(Clone, Debug)]
pub(super) struct GroupRow {
    pub(super) name: GroupName,
    pub(super) share: f64,
    pub(super) nr_members: usize,
    pub(super) vcpus: String,
    pub(super) nice: String,
    /// The cap in percent of one CPU.
    pub(super) cap: Option<f64>,
    /// CPU time that was to be had in the last 10 s, and that was had, in microseconds.
    pub(super) asked_usec: Option<u64>,
    pub(super) got_usec: Option<u64>,
    pub(super) error_pct: Option<f64>,
    pub(super) mode: String,
}

/// The memory of a group in the picture.
#[derive(Clone, Debug)]
pub(super) struct MemRow {
    pub(super) name: GroupName,
    pub(super) nr_members: usize,
    /// Bytes.
    pub(super) resident: Option<u64>,
    /// Bytes; `None` is no limit.
    pub(super) max: Option<u64>,
    /// Bytes.
    pub(super) swapped: Option<u64>,
    /// Faults served in a second of the last interval.
    pub(super) faults: f64,
    /// Those of them that read from a tier.
    pub(super) major_faults: f64,
    /// Percent of the last 10 s in which some, and all, members waited for memory.
    pub(super) pressure: (Option<f64>, Option<f64>),
    /// CPU time of its worker in the last interval, in percent of one CPU.
    pub(super) worker: f64,
}

impl MemRow {
    /// How full the pool is, 0 to 1; 0 for one without a limit.
    pub(super) fn fill(&self) -> f64 {
        match (self.resident, self.max) {
            (Some(resident), Some(max)) if max > 0 => resident as f64 / max as f64,
            _ => 0.0,
        }
    }
}

/// A member in the picture.
#[derive(Clone, Debug)]
pub(super) struct MemberRow {
    pub(super) pid: i32,
    pub(super) group: GroupName,
    pub(super) state: String,
    pub(super) nice: Option<i64>,
    pub(super) prio: Option<i64>,
    pub(super) share: f64,
    pub(super) usage_usec: u64,
    /// Bytes, as a member of a mem_group.
    pub(super) resident: Option<u64>,
    pub(super) swapped: Option<u64>,
    pub(super) comm: String,
}

/// The picture.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) groups: Vec<GroupRow>,
    pub(super) memories: Vec<MemRow>,
    pub(super) members: Vec<MemberRow>,
    /// What all processes in no group used, in percent of one CPU.
    pub(super) ungrouped: Option<f64>,
    pub(super) order: Order,
}

impl Frame {
    /// Makes the picture of the time between two snapshots. What was not there before shows no share yet.
    pub(super) fn between(old: &Snapshot, new: &Snapshot, order: Order) -> Self {
        let usec = (new.at.saturating_duration_since(old.at).as_secs_f64() * 1e6).max(1.0);
        let pct = |used: u64| used as f64 * 100.0 / usec;
        let old_groups: HashMap<_, _> = old.groups.iter().map(|g| (&g.name, g)).collect();
        let old_members: HashMap<i32, u64> =
            old.groups.iter().flat_map(|g| &g.members).filter_map(|m| Some((m.pid, m.usage_usec?))).collect();
        let mut frame =
            Self { groups: Vec::new(), memories: Vec::new(), members: Vec::new(), ungrouped: None, order };
        for group in &new.groups {
            let used =
                old_groups.get(&group.name).map_or(0, |o| group.usage_usec().saturating_sub(o.usage_usec()));
            if group.has_sched {
                frame.groups.push(group_row(group, pct(used)));
            }
            if let Some(memory) = &group.memory {
                let before = old_groups.get(&group.name).and_then(|old| old.memory.as_ref());
                frame.memories.push(mem_row(group, memory, before, usec));
            }
            for member in &group.members {
                let usage_usec = member.usage_usec.unwrap_or(0);
                let before = old_members.get(&member.pid).copied().unwrap_or(usage_usec);
                frame.members.push(MemberRow {
                    pid: member.pid,
                    group: group.name.clone(),
                    state: member.state.clone(),
                    nice: member.nice,
                    prio: member.prio,
                    share: pct(usage_usec.saturating_sub(before)),
                    usage_usec,
                    resident: member.resident,
                    swapped: member.swapped,
                    comm: member.comm.clone(),
                });
            }
        }
        let grouped: f64 = frame.groups.iter().map(|g| g.share).sum();
        if let (Some(before), Some(now)) = (old.host_usec, new.host_usec) {
            frame.ungrouped = Some((pct(now.saturating_sub(before)) - grouped).max(0.0));
        }
        frame.sort();
        frame
    }

    /// Sorts the members anew.
    pub(super) fn sort_by(&mut self, order: Order) {
        self.order = order;
        self.sort();
    }

    fn sort(&mut self) {
        let by_share = |a: &MemberRow, b: &MemberRow| b.share.total_cmp(&a.share).then(a.pid.cmp(&b.pid));
        match self.order {
            Order::Cpu => self.members.sort_by(by_share),
            Order::Time => {
                self.members.sort_by(|a, b| b.usage_usec.cmp(&a.usage_usec).then(a.pid.cmp(&b.pid)))
            }
            Order::Pid => self.members.sort_by_key(|m| m.pid),
            Order::Group => self.members.sort_by(|a, b| a.group.cmp(&b.group).then_with(|| by_share(a, b))),
        }
    }
}

fn group_row(group: &GroupSample, share: f64) -> GroupRow {
    GroupRow {
        name: group.name.clone(),
        share,
        nr_members: group.members.len(),
        vcpus: group.vcpus.clone(),
        nice: group.nice.clone(),
        cap: group.cpu_max.and_then(|max| max.cpus()).map(|cpus| cpus * 100.0),
        asked_usec: group.promise.get("asked"),
        got_usec: group.promise.get("got"),
        error_pct: group.promise.get("error_pct"),
        mode: group.mode.clone(),
    }
}

fn mem_row(group: &GroupSample, now: &MemSample, before: Option<&MemSample>, usec: f64) -> MemRow {
    let grown = |key: &str| {
        let count = |sample: &MemSample| sample.stat.get::<u64>(key).unwrap_or(0);
        count(now).saturating_sub(before.map_or(count(now), count)) as f64
    };
    MemRow {
        name: group.name.clone(),
        nr_members: now.stat.get("nr_members").unwrap_or(0),
        resident: now.current,
        max: now.max.parse().ok(),
        swapped: now.swap_current,
        faults: grown("pgfault") * 1e6 / usec,
        major_faults: grown("pgmajfault") * 1e6 / usec,
        pressure: (now.pressure("some", "avg10"), now.pressure("full", "avg10")),
        worker: grown("worker_usec") * 100.0 / usec,
    }
}

/// Two pictures made of a fake tree, for tests.
#[cfg(test)]
pub(super) fn example() -> Frame {
    use std::time::Duration;

    use crate::tree::fake;

    let (dir, tree) = fake::tree();
    fake::mem_group(dir.path(), "pool");
    fake::mem_group(dir.path(), "web");
    fake::mem_member(dir.path(), "web", 42);
    let old = Snapshot::read(&tree).expect("readable");
    let stat = "pgfault 1500\npgmajfault 30\nnr_members 1\nworker_usec 520000\n";
    fake::write(dir.path(), "mem-groups/web/memory.stat", stat);
    fake::member(dir.path(), "web", 42, "running", 1_500_000);
    fake::member(dir.path(), "web", 43, "running", 9_000_000);
    fake::write(dir.path(), "sched-groups/web/cpu.stat", "usage_usec 3500000\n");
    let mut new = Snapshot::read(&tree).expect("readable");
    new.at = old.at + Duration::from_secs(1);
    (new.host_usec, _) = (old.host_usec.map(|usec| usec + 1_250_000), ());
    Frame::between(&old, &new, Order::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_has_the_shares_of_the_interval() {
        let frame = example();

        assert_eq!(frame.groups.len(), 1);
        assert!((frame.groups[0].share - 50.0).abs() < 1e-6);
        assert_eq!(frame.groups[0].cap, Some(25.0));
        assert_eq!((frame.members[0].pid, frame.members[0].share.round()), (42, 50.0));
        // New in this interval: its time was used we know not when.
        assert_eq!(frame.members.iter().find(|m| m.pid == 43).map(|m| m.share), Some(0.0));
        assert_eq!(frame.ungrouped.map(f64::round), Some(75.0));
        let web = &frame.memories[1];
        assert_eq!((frame.memories.len(), web.name.to_string()), (2, "web".into()));
        assert_eq!((web.faults.round(), web.major_faults.round(), web.worker.round()), (500.0, 20.0, 2.0));
        assert_eq!(
            (web.resident, web.max, web.pressure),
            (Some(32 << 20), Some(64 << 20), (Some(1.5), Some(0.25)))
        );
        assert_eq!(frame.memories[0].faults, 0.0);
        assert_eq!(frame.members[0].resident, Some(2 << 20));
    }

    #[test]
    fn members_are_sorted_as_asked() {
        let mut frame = example();
        let mut pids = |order| {
            frame.sort_by(order);
            frame.members.iter().map(|m| m.pid).collect::<Vec<_>>()
        };

        assert_eq!(pids(Order::Pid), [41, 42, 43]);
        assert_eq!(pids(Order::Time), [43, 41, 42]);
        assert_eq!(pids(Order::Group), [42, 41, 43]);
    }

    #[test]
    fn busy_time_leaves_out_idle_and_steal() {
        assert_eq!(busy_usec("cpu  1 2 3 400 5 6 7 800 0 0\ncpu0 9\n"), Some(190_000));
        assert_eq!(busy_usec("intr 1"), None);
    }
}
