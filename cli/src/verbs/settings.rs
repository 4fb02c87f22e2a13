//! The settings of a group as options, shared by `create` and `run`.

use clap::Args;

use crate::tree::values::Cpus;
use crate::tree::{Group, Side, TreeError};

/// Options that become writes to a group's files.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Settings {
    /// CPUs the group may use, like 0.25 or 2: its cpu.max, and vcpus the next whole number
    #[arg(long, value_name = "CPUS")]
    pub(crate) cpu: Option<Cpus>,
    /// The group's weight on the host, as a process of that nice value has
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i8).range(-20..=19))]
    pub(crate) nice: Option<i8>,
    /// The guest scheduler, like guest_o1_scheduler
    #[arg(long, value_name = "POLICY")]
    pub(crate) scheduler: Option<String>,
    /// How many members may run at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) vcpus: Option<u16>,
    /// A fixed time slice, or `policy` for the scheduler's own
    #[arg(long, value_name = "USEC", value_parser = parse_slice)]
    pub(crate) slice: Option<String>,
    /// Memory the group may hold, like 64M: makes a mem_group; what does not fit is swapped out
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: Option<String>,
    /// Memory that the group may swap out, like 1G
    #[arg(long, value_name = "SIZE", requires = "memory", value_parser = parse_size)]
    pub(crate) swap_max: Option<String>,
    /// Where it is swapped to, in order, like "lz4:16M file:2G:/var/tmp", or `none`
    #[arg(long, value_name = "TIERS", requires = "memory", value_parser = parse_tiers)]
    pub(crate) swap_tiers: Option<String>,
}

/// The daemon knows what is allowed; here only what is no size at all is refused.
fn parse_size(text: &str) -> Result<String, String> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T', 'k', 'm', 'g', 't']);
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if text == "max" || (is_number && text.len() - digits.len() <= 1) {
        Ok(text.to_owned())
    } else {
        Err("expected a size like 64M, or max".into())
    }
}

fn parse_tiers(text: &str) -> Result<String, String> {
    let is_tier = |word: &str| word.starts_with("lz4:") || word.starts_with("file:");
    let mut words = text.split_whitespace().peekable();
    if text == "none" || (words.peek().is_some() && words.all(is_tier)) {
        Ok(text.to_owned())
    } else {
        Err("expected lz4:SIZE and file:SIZE:DIR, or none".into())
    }
}

fn parse_slice(text: &str) -> Result<String, String> {
    let is_number = text.parse::<u64>().is_ok_and(|usec| usec > 0);
    if is_number || text == "policy" {
        Ok(text.to_owned())
    } else {
        Err("expected microseconds or `policy`".into())
    }
}

impl Settings {
    /// Gives the files to write and what to write, in an order that a new group accepts.
    pub(crate) fn writes(&self) -> Vec<(&'static str, String)> {
        let vcpus = self.vcpus.map(u64::from).or(self.cpu.and_then(Cpus::vcpus));
        let mut writes = Vec::new();
        writes.extend(self.scheduler.clone().map(|policy| ("scheduler", policy)));
        writes.extend(vcpus.map(|n| ("vcpus", n.to_string())));
        writes.extend(self.slice.clone().map(|slice| ("slice_usec", slice)));
        writes.extend(self.nice.map(|nice| ("nice", nice.to_string())));
        writes.extend(self.cpu.map(|cpus| ("cpu.max", cpus.cpu_max().to_string())));
        writes
    }

    /// As [`Settings::writes`], for the mem_group.
    pub(crate) fn mem_writes(&self) -> Vec<(&'static str, String)> {
        let mut writes = Vec::new();
        // The compressed tier has to fit into the pool: whichever order leaves less to refuse.
        writes.extend(self.swap_tiers.clone().map(|tiers| ("memory.swap.tiers", tiers)));
        writes.extend(self.memory.clone().map(|size| ("memory.max", size)));
        writes.extend(self.swap_max.clone().map(|size| ("memory.swap.max", size)));
        writes
    }

    /// Tells in which halves of the tree a group is wanted: where something is set, and if nothing is, a sched_group.
    pub(crate) fn sides(&self) -> Vec<Side> {
        let has_mem = !self.mem_writes().is_empty();
        let sched = (!self.writes().is_empty() || !has_mem).then_some(Side::Sched);
        sched.into_iter().chain(has_mem.then_some(Side::Mem)).collect()
    }

    /// Writes those of the group's half.
    ///
    /// # Errors
    /// The first that is refused; earlier ones stay.
    pub(crate) fn apply(&self, group: &Group) -> Result<(), TreeError> {
        let writes = match group.side() {
            Side::Sched => self.writes(),
            Side::Mem => self.mem_writes(),
        };
        writes.iter().try_for_each(|(file, value)| group.write(file, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_sets_vcpus_too_unless_they_are_given() {
        let settings = Settings { cpu: "1.5".parse().ok(), ..Settings::default() };
        assert_eq!(settings.writes(), [("vcpus", "2".into()), ("cpu.max", "150000 100000".into())]);

        let settings = Settings { vcpus: Some(1), ..settings };
        assert_eq!(settings.writes()[0], ("vcpus", "1".into()));
    }

    #[test]
    fn groups_are_made_where_something_is_set() {
        let memory = Settings { memory: Some("64M".into()), ..Settings::default() };
        let both = Settings { cpu: "0.5".parse().ok(), ..memory.clone() };

        assert_eq!(Settings::default().sides(), [Side::Sched]);
        assert_eq!(memory.sides(), [Side::Mem]);
        assert_eq!(both.sides(), [Side::Sched, Side::Mem]);
        assert_eq!(both.mem_writes(), [("memory.max", "64M".into())]);
    }

    #[test]
    fn sizes_and_tiers_that_are_none_are_refused() {
        for good in ["64M", "1", "max", "3g"] {
            assert!(parse_size(good).is_ok(), "{good}");
        }
        for bad in ["", "M", "64MB", "-1", "1.5G", "64MM"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert!(parse_tiers("lz4:1M file:1G:/x").is_ok() && parse_tiers("none").is_ok());
        assert!(parse_tiers("").is_err() && parse_tiers("zstd:1M").is_err());
    }

    #[test]
    fn slice_that_is_none_is_refused() {
        assert!(parse_slice("policy").is_ok());
        assert!(parse_slice("5000").is_ok());
        assert!(parse_slice("0").is_err());
        assert!(parse_slice("5ms").is_err());
    }
}
