//! The settings of a group as options, shared by `create` and `run`.

use clap::Args;

use crate::tree::values::Cpus;
use crate::tree::{Group, TreeError};

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

    /// Writes them.
    ///
    /// # Errors
    /// The first that is refused; earlier ones stay.
    pub(crate) fn apply(&self, group: &Group) -> Result<(), TreeError> {
        self.writes().iter().try_for_each(|(file, value)| group.write(file, value))
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
    fn slice_that_is_none_is_refused() {
        assert!(parse_slice("policy").is_ok());
        assert!(parse_slice("5000").is_ok());
        assert!(parse_slice("0").is_err());
        assert!(parse_slice("5ms").is_err());
    }
}
