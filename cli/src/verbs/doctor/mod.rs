//! `doctor`: what works on this host, how to get the rest, and how a group would be driven.

mod host;
mod probes;

use std::io::{self, Write};

use clap::Args;
use serde_json::{Value, json};

use self::host::Host;
use self::probes::{Finding, Grade};
use crate::args::Context;
use crate::exit::{CliError, Exit};
use crate::output::{self, Align, Table};
use crate::tree::TreeError;

/// Tell what works on this host, and how to get the rest.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What the probes add up to.
#[derive(Clone, Debug)]
struct Report {
    findings: Vec<Finding>,
    daemon: String,
}

impl DoctorArgs {
    /// Probes and prints. Fails if no group could be made here.
    pub(crate) fn run(self, context: &Context, out: &mut dyn Write) -> Result<Exit, CliError> {
        let daemon = match context.tree() {
            Ok(tree) => format!("serves {}", tree.root().display()),
            Err(TreeError::Unreachable { root, .. }) => format!("none at {}", root.display()),
            Err(e) => e.to_string(),
        };
        let report = Report { findings: probes::all(&Host::look()), daemon };
        if self.json {
            output::json(out, &report.to_json())?;
        } else {
            report.write(out)?;
        }
        Ok(if report.is_usable() { Exit::Ok } else { Exit::Failed })
    }
}

impl Report {
    fn grade(&self, name: &str) -> Grade {
        self.findings.iter().find(|f| f.name == name).map_or(Grade::Missing, |f| f.grade)
    }

    fn has(&self, name: &str) -> bool {
        self.grade(name) == Grade::Ok
    }

    /// Whether groups can be made: a tree can be shown, and members can be watched. Parking by signals always works.
    fn is_usable(&self) -> bool {
        self.grade("fuse") != Grade::Missing && (self.has("perf") || self.has("tracepoints"))
    }

    /// What memory groups lack here; nothing if they work. Members are found by perf's records.
    fn memory_lacks(&self) -> Vec<&'static str> {
        ["fuse", "userfaultfd", "uffd move", "perf"]
            .into_iter()
            .filter(|name| self.grade(name) == Grade::Missing)
            .collect()
    }

    /// The mode that a group would probably get; the worker decides by its own probes.
    fn mode(&self) -> String {
        let park = if self.has("freeze") { "freeze" } else { "stop" };
        let sensor = if self.has("tracepoints") { "tracepoint" } else { "switch" };
        let envelope = if self.has("cpu cgroup") { "cgroup" } else { "none" };
        let handover = if envelope == "none" { "strict" } else { "overlap" };
        format!("park={park} handover={handover} sensor={sensor} envelope={envelope}")
    }

    fn to_json(&self) -> Value {
        json!({
            "usable": self.is_usable(),
            "mode": crate::tree::values::Pairs::parse_words(&self.mode()).to_json(),
            "memory_usable": self.memory_lacks().is_empty(),
            "daemon": self.daemon,
            "probes": self.findings,
        })
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = [("", Align::Left), ("WHAT", Align::Left), ("FOUND", Align::Left)];
        let mut table = Table::new(&columns);
        for finding in &self.findings {
            table.row([finding.grade.word().into(), finding.name.into(), finding.detail.clone()]);
        }
        table.write(out)?;
        let remedies: Vec<&Finding> = self.findings.iter().filter(|f| f.remedy.is_some()).collect();
        if !remedies.is_empty() {
            writeln!(out, "\nTo get more:")?;
        }
        for finding in remedies {
            writeln!(out, "  {:<12}  {}", finding.name, finding.remedy.as_deref().unwrap_or_default())?;
        }
        writeln!(out, "\ndaemon: {}", self.daemon)?;
        if self.is_usable() {
            writeln!(out, "a group would probably run with: {}", self.mode())?;
        } else {
            writeln!(out, "no group can be made here")?;
        }
        match &self.memory_lacks()[..] {
            [] => writeln!(out, "memory groups can be made"),
            lacks => writeln!(out, "no memory group can be made here, for want of: {}", lacks.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(grades: &[(&'static str, Grade)]) -> Report {
        let findings = grades
            .iter()
            .map(|(name, grade)| Finding {
                name,
                grade: *grade,
                detail: "d".into(),
                remedy: (*grade != Grade::Ok).then(|| "do it".into()),
            })
            .collect();
        Report { findings, daemon: "none".into() }
    }

    #[test]
    fn mode_follows_what_was_found() {
        let all = report(&[
            ("fuse", Grade::Ok),
            ("freeze", Grade::Ok),
            ("cpu cgroup", Grade::Ok),
            ("tracepoints", Grade::Ok),
        ]);
        assert_eq!(all.mode(), "park=freeze handover=overlap sensor=tracepoint envelope=cgroup");
        assert!(all.is_usable());

        let little = report(&[("fuse", Grade::Limited), ("perf", Grade::Ok), ("freeze", Grade::Missing)]);
        assert_eq!(little.mode(), "park=stop handover=strict sensor=switch envelope=none");
        assert!(little.is_usable());
        assert!(!report(&[("perf", Grade::Ok)]).is_usable());
        assert_eq!(little.memory_lacks(), ["userfaultfd", "uffd move"]);
    }

    #[test]
    fn remedies_are_listed_below_the_table() {
        let mut out = Vec::new();

        report(&[("fuse", Grade::Missing), ("perf", Grade::Ok)]).write(&mut out).expect("memory");

        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("missing  fuse  d\nok       perf  d\n"), "{text}");
        assert!(text.contains("To get more:\n  fuse          do it\n"), "{text}");
        assert!(text.contains("no group can be made here"), "{text}");
    }
}
