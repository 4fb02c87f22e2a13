//! Groups and members as they are at one moment.

use serde::Serialize;
use serde_json::{Value, json};

use super::values::{CpuMax, Pairs, json_of, printable};
use super::{Group, GroupName, TreeError};

/// A group with its settings and counters.
#[derive(Clone, Debug)]
pub(crate) struct GroupSample {
    /// Its name or number.
    pub(crate) name: GroupName,
    /// The policy.
    pub(crate) scheduler: String,
    /// The PID that stands for it.
    pub(crate) representative: String,
    /// `policy` or microseconds.
    pub(crate) slice_usec: String,
    /// How many members may run at once.
    pub(crate) vcpus: String,
    /// Its weight on the host.
    pub(crate) nice: String,
    /// Its cap.
    pub(crate) cpu_max: Option<CpuMax>,
    /// Counters.
    pub(crate) stat: Pairs,
    /// What was asked and what was got.
    pub(crate) promise: Pairs,
    /// The driver's parts.
    pub(crate) mode: String,
    /// Its members, in order of their number.
    pub(crate) members: Vec<MemberSample>,
}

/// A member with its settings and counters. What could not be read is empty: it may have ended meanwhile.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct MemberSample {
    /// The process or guest task.
    pub(crate) pid: i32,
    /// `running`, `queued`, `expired`, `sleeping`.
    pub(crate) state: String,
    /// The guest's nice.
    pub(crate) nice: Option<i64>,
    /// The guest's effective priority.
    pub(crate) prio: Option<i64>,
    /// CPU time used.
    pub(crate) usage_usec: Option<u64>,
    /// Its name.
    pub(crate) comm: String,
}

impl MemberSample {
    /// Reads a member; `None` if it is gone.
    pub(crate) fn read(group: &Group, pid: i32) -> Option<Self> {
        let text = |file: &str| group.read(&format!("{pid}/{file}")).ok();
        let comm = text("comm")?;
        let sched = Pairs::parse(&text("sched").unwrap_or_default());
        let stat = Pairs::parse(&text("stat").unwrap_or_default());
        Some(Self {
            pid,
            state: text("state").unwrap_or_default(),
            nice: text("nice").and_then(|n| n.parse().ok()),
            prio: sched.get("prio"),
            usage_usec: stat.get("usage_usec"),
            comm: printable(&comm),
        })
    }

    /// Reads every attribute of a member, as they are written.
    ///
    /// # Errors
    /// [`TreeError::NoTask`] if it is gone.
    pub(crate) fn read_details(group: &Group, pid: i32) -> Result<Vec<(&'static str, String)>, TreeError> {
        const FILES: [&str; 7] = ["comm", "cmdline", "nice", "policy", "state", "sched", "stat"];
        if !group.has_member(pid) {
            return Err(TreeError::NoTask(pid));
        }
        Ok(FILES
            .iter()
            .filter_map(|&file| Some((file, group.read(&format!("{pid}/{file}")).ok()?)))
            .collect())
    }
}

impl GroupSample {
    /// Reads a group and its members. A file that this daemon does not have reads as empty.
    ///
    /// # Errors
    /// [`TreeError::Io`] if the group cannot be listed.
    pub(crate) fn read(group: &Group) -> Result<Self, TreeError> {
        let pids = group.members()?;
        let text = |file: &str| group.read(file).unwrap_or_default();
        Ok(Self {
            name: group.name().clone(),
            scheduler: printable(&text("scheduler")),
            representative: text("representative"),
            slice_usec: text("slice_usec"),
            vcpus: text("vcpus"),
            nice: text("nice"),
            cpu_max: text("cpu.max").parse().ok(),
            stat: Pairs::parse(&text("cpu.stat")),
            promise: Pairs::parse(&text("cpu.promise")),
            mode: printable(&text("mode")),
            members: pids.into_iter().filter_map(|pid| MemberSample::read(group, pid)).collect(),
        })
    }

    /// CPU time used by the group.
    pub(crate) fn usage_usec(&self) -> u64 {
        self.stat.get("usage_usec").unwrap_or(0)
    }

    /// Gives the sample as `show --json` and `ps --json` print it. The keys are the names of the files.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "group": self.name.to_string(),
            "scheduler": self.scheduler,
            "representative": json_of(&self.representative),
            "slice_usec": json_of(&self.slice_usec),
            "vcpus": json_of(&self.vcpus),
            "nice": json_of(&self.nice),
            "cpu.max": self.cpu_max.map(|max| json!({
                "quota_usec": max.quota_usec, "period_usec": max.period_usec,
            })),
            "cpu.stat": self.stat.to_json(),
            "cpu.promise": self.promise.to_json(),
            "mode": Pairs::parse_words(&self.mode).to_json(),
            "members": self.members,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fake;

    #[test]
    fn group_read_has_settings_and_members() {
        let (_dir, tree) = fake::tree();

        let sample = GroupSample::read(&tree.group(&"web".parse().expect("a name"))).expect("exists");

        assert_eq!(sample.usage_usec(), 3_000_000);
        assert_eq!(sample.members.len(), 2);
        assert_eq!((sample.members[0].prio, sample.members[0].nice), (Some(120), Some(5)));
        let json = sample.to_json();
        assert_eq!(json["cpu.max"]["quota_usec"], 25_000);
        assert_eq!(json["mode"]["park"], "freeze");
        assert_eq!(json["members"][1]["state"], "queued");
    }

    #[test]
    fn member_gone_is_none() {
        let (_dir, tree) = fake::tree();
        let web = tree.group(&"web".parse().expect("a name"));

        assert_eq!(MemberSample::read(&web, 9), None);
        assert!(matches!(MemberSample::read_details(&web, 9), Err(TreeError::NoTask(9))));
    }
}
