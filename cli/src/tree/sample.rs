//! Groups and members as they are at one moment.

use serde::Serialize;
use serde_json::{Value, json};

use super::values::{CpuMax, Pairs, json_of, printable};
use super::{Compartment, Group, GroupName, TreeError, unescape};

/// What has one name, with its settings and counters. What a sched_group tells is empty where there is none.
#[derive(Clone, Debug)]
pub(crate) struct GroupSample {
    /// Its name or number.
    pub(crate) name: GroupName,
    /// Whether there is a sched_group.
    pub(crate) has_sched: bool,
    /// The mem_group, if there is one.
    pub(crate) memory: Option<MemSample>,
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

/// A mem_group with its settings and counters.
#[derive(Clone, Debug)]
pub(crate) struct MemSample {
    /// The guest VM.
    pub(crate) vm: String,
    /// The PID that stands for it.
    pub(crate) representative: String,
    /// Bytes, or `max`.
    pub(crate) max: String,
    /// Resident bytes.
    pub(crate) current: Option<u64>,
    /// Bytes, or `max`.
    pub(crate) swap_max: String,
    /// Swapped bytes.
    pub(crate) swap_current: Option<u64>,
    /// Where to.
    pub(crate) swap_tiers: String,
    /// Counters.
    pub(crate) stat: Pairs,
    /// How often the limits were met.
    pub(crate) events: Pairs,
    /// Lines of `some` and `full`.
    pub(crate) pressure: Pairs,
}

impl MemSample {
    fn read(group: &Group) -> Self {
        let text = |file: &str| group.read(file).unwrap_or_default();
        Self {
            vm: printable(&text("vm")),
            representative: text("representative"),
            max: text("memory.max"),
            current: text("memory.current").parse().ok(),
            swap_max: text("memory.swap.max"),
            swap_current: text("memory.swap.current").parse().ok(),
            swap_tiers: printable(&text("memory.swap.tiers")),
            stat: Pairs::parse(&text("memory.stat")),
            events: Pairs::parse(&text("memory.events")),
            pressure: Pairs::parse(&text("memory.pressure")),
        }
    }

    /// Gives a number of `memory.pressure`, like `avg10` of `some`.
    pub(crate) fn pressure<T: std::str::FromStr>(&self, line: &str, key: &str) -> Option<T> {
        Pairs::parse_words(&self.pressure.get::<String>(line)?).get(key)
    }

    fn to_json(&self) -> Value {
        let pressure =
            |line: &str| Pairs::parse_words(&self.pressure.get::<String>(line).unwrap_or_default()).to_json();
        json!({
            "vm": self.vm,
            "representative": json_of(&self.representative),
            "memory.max": json_of(&self.max),
            "memory.current": self.current,
            "memory.swap.max": json_of(&self.swap_max),
            "memory.swap.current": self.swap_current,
            "memory.swap.tiers": self.swap_tiers,
            "memory.stat": self.stat.to_json(),
            "memory.events": self.events.to_json(),
            "memory.pressure": { "some": pressure("some"), "full": pressure("full") },
        })
    }
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
    /// Resident bytes, as a member of a mem_group.
    pub(crate) resident: Option<u64>,
    /// Swapped bytes, likewise.
    pub(crate) swapped: Option<u64>,
    /// Its name.
    pub(crate) comm: String,
}

impl MemberSample {
    /// Reads a member; `None` if it is gone.
    pub(crate) fn read(compartment: &Compartment, pid: i32) -> Option<Self> {
        let of = |group: Option<&Group>, file: &str| group?.read(&format!("{pid}/{file}")).ok();
        let text = |file: &str| of(compartment.sched(), file);
        let bytes = |file: &str| of(compartment.mem(), file)?.parse().ok();
        let comm = text("comm").or_else(|| of(compartment.mem(), "comm"))?;
        let sched = Pairs::parse(&text("sched").unwrap_or_default());
        let stat = Pairs::parse(&text("stat").unwrap_or_default());
        Some(Self {
            pid,
            state: text("state").unwrap_or_default(),
            nice: text("nice").and_then(|n| n.parse().ok()),
            prio: sched.get("prio"),
            usage_usec: stat.get("usage_usec"),
            resident: bytes("memory.current"),
            swapped: bytes("memory.swap.current"),
            comm: printable(&comm),
        })
    }

    /// Reads a line of an application's `tasks`; `None` if it is not like one.
    fn of_line(line: &str) -> Option<Self> {
        let words = Pairs::parse_words(line);
        Some(Self {
            pid: words.get("pid")?,
            state: words.get("state").unwrap_or_default(),
            nice: words.get("nice"),
            prio: None,
            usage_usec: words.get("usage_usec"),
            resident: None,
            swapped: None,
            comm: printable(&unescape(&words.get::<String>("comm").unwrap_or_default())),
        })
    }

    /// Reads every attribute of a member, as they are written.
    ///
    /// # Errors
    /// [`TreeError::NoTask`] if it is gone.
    pub(crate) fn read_details(
        compartment: &Compartment,
        pid: i32,
    ) -> Result<Vec<(&'static str, String)>, TreeError> {
        const SCHED: &[&str] = &["comm", "cmdline", "owner", "nice", "policy", "state", "sched", "stat"];
        const MEM: &[&str] =
            &["comm", "cmdline", "memory.current", "memory.swap.current", "memory.stat", "unmanaged"];
        let mut details: Vec<(&'static str, String)> = Vec::new();
        let mut is_member = false;
        for (group, files) in [(compartment.sched(), SCHED), (compartment.mem(), MEM)] {
            let Some(group) = group.filter(|group| group.has_member(pid)) else { continue };
            is_member = true;
            for file in files {
                let is_new = !details.iter().any(|(name, _)| name == file);
                if let (true, Ok(text)) = (is_new, group.read(&format!("{pid}/{file}"))) {
                    details.push((file, text));
                }
            }
        }
        if is_member { Ok(details) } else { Err(TreeError::NoTask(pid)) }
    }
}

impl GroupSample {
    /// Reads what has one name, and its members. A file that this daemon does not have reads as empty.
    ///
    /// # Errors
    /// [`TreeError::Io`] if the group cannot be listed.
    pub(crate) fn read(compartment: &Compartment) -> Result<Self, TreeError> {
        let members = match compartment.sched().map(|group| group.read("tasks")) {
            // One file for all, where there are guest tasks.
            Some(Ok(lines)) => lines.lines().filter_map(MemberSample::of_line).collect(),
            _ => {
                let pids = compartment.members()?;
                pids.into_iter().filter_map(|pid| MemberSample::read(compartment, pid)).collect()
            }
        };
        let text =
            |file: &str| compartment.sched().and_then(|group| group.read(file).ok()).unwrap_or_default();
        Ok(Self {
            name: compartment.name().clone(),
            has_sched: compartment.sched().is_some(),
            memory: compartment.mem().map(MemSample::read),
            scheduler: printable(&text("scheduler")),
            representative: text("representative"),
            slice_usec: text("slice_usec"),
            vcpus: text("vcpus"),
            nice: text("nice"),
            cpu_max: text("cpu.max").parse().ok(),
            stat: Pairs::parse(&text("cpu.stat")),
            promise: Pairs::parse(&text("cpu.promise")),
            mode: printable(&text("mode")),
            members,
        })
    }

    /// CPU time used by the group.
    pub(crate) fn usage_usec(&self) -> u64 {
        self.stat.get("usage_usec").unwrap_or(0)
    }

    /// Gives the sample as `show --json` and `ps --json` print it. The keys are the names of the files.
    pub(crate) fn to_json(&self) -> Value {
        let memory = self.memory.as_ref().map(MemSample::to_json);
        if !self.has_sched {
            return json!({ "group": self.name.to_string(), "memory": memory, "members": self.members });
        }
        json!({
            "group": self.name.to_string(),
            "memory": memory,
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

        let sample = GroupSample::read(&tree.compartment(&"web".parse().expect("a name")).expect("exists"))
            .expect("readable");

        assert_eq!(sample.usage_usec(), 3_000_000);
        assert_eq!(sample.members.len(), 2);
        assert_eq!((sample.members[0].prio, sample.members[0].nice), (Some(120), Some(5)));
        let json = sample.to_json();
        assert_eq!(json["cpu.max"]["quota_usec"], 25_000);
        assert_eq!(json["mode"]["park"], "freeze");
        assert_eq!(json["members"][1]["state"], "queued");
        assert!(json["memory"].is_null());
    }

    #[test]
    fn memory_read_is_beside_the_rest_or_alone() {
        let (dir, tree) = fake::tree();
        fake::mem_group(dir.path(), "web");
        fake::mem_member(dir.path(), "web", 41);
        fake::mem_group(dir.path(), "pool");
        let read = |name: &str| {
            GroupSample::read(&tree.compartment(&name.parse().expect("a name")).expect("exists"))
                .expect("readable")
        };

        let web = read("web");
        assert_eq!((web.members[0].resident, web.members[1].resident), (Some(2 << 20), None));
        let memory = web.memory.as_ref().expect("a mem_group");
        assert_eq!(memory.pressure::<f64>("some", "avg10"), Some(1.5));
        let json = web.to_json();
        assert_eq!(json["memory"]["memory.max"], 64 << 20);
        assert_eq!(json["memory"]["memory.pressure"]["full"]["total"], 99);
        let pool = read("pool").to_json();
        assert_eq!((pool.get("cpu.max"), &pool["memory"]["vm"]), (None, &"guest_vm".into()));
    }

    #[test]
    fn guest_tasks_are_read_from_one_file() {
        let (dir, tree) = fake::tree();
        let line =
            "pid=4194310 ppid=7 state=waiting nice=-3 usage_usec=9 comm=GET\\x20/a\\x3db cmdline= owner=\n";
        fake::write(dir.path(), "sched-groups/77/tasks", line);

        let sample = GroupSample::read(&tree.compartment(&"77".parse().expect("a name")).expect("exists"))
            .expect("readable");

        let member = &sample.members[0];
        assert_eq!(
            (member.pid, &*member.state, member.nice, &*member.comm),
            (4_194_310, "waiting", Some(-3), "GET /a=b")
        );
    }

    #[test]
    fn member_gone_is_none() {
        let (_dir, tree) = fake::tree();
        let web = tree.compartment(&"web".parse().expect("a name")).expect("exists");

        assert_eq!(MemberSample::read(&web, 9), None);
        assert!(matches!(MemberSample::read_details(&web, 9), Err(TreeError::NoTask(9))));
    }
}
