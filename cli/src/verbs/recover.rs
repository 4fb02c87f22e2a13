//! `recover`: resumes what dead daemons, keepers and workers left parked, without any of them.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::embedded::Place;
use crate::exit::{CliError, Exit};
use crate::multicall::{self, Recovery};
use crate::{output, paths};

/// Resume what dead daemons left parked.
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// State directories [default: the daemon's own, and those of embedded daemons]
    #[arg(long, value_name = "DIR")]
    state: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl RecoverArgs {
    /// Recovers.
    pub(crate) fn run(self, out: &mut dyn Write) -> Result<(), CliError> {
        let mut results = Vec::new();
        let is_default = self.state.is_empty();
        let states =
            if is_default { multicall::default_state_dir().into_iter().collect() } else { self.state };
        for state in states {
            let recovery = multicall::recover(&state)?;
            results.push((state, recovery));
        }
        // What a killed `run` or `demo` left behind goes altogether.
        let embedded = if is_default { paths::embedded_dirs() } else { Vec::new() };
        for dir in embedded {
            let recovery = Place::adopt(&dir).map_or(Ok(Recovery::InUse), |place| place.clear())?;
            results.push((dir, recovery));
        }
        print(out, &results, self.json)?;
        let failed =
            |recovery: &Recovery| matches!(recovery, Recovery::Done(done) if !done.failed.is_empty());
        let nr_failed = results.iter().filter(|(_, recovery)| failed(recovery)).count();
        if nr_failed > 0 {
            return Err(CliError::Partly { failed: nr_failed, all: results.len(), exit: Exit::Failed });
        }
        Ok(())
    }
}

fn print(out: &mut dyn Write, results: &[(PathBuf, Recovery)], is_json: bool) -> Result<(), CliError> {
    if is_json {
        return Ok(output::json(
            out,
            &results.iter().map(|(state, recovery)| to_json(state, recovery)).collect(),
        )?);
    }
    let mut is_quiet = true;
    for (state, recovery) in results {
        let state = state.display();
        let Recovery::Done(done) = recovery else {
            writeln!(out, "{state}: in use by a daemon, which recovers its groups itself")?;
            continue;
        };
        for pid in &done.resumed {
            writeln!(out, "{state}: resumed {pid}")?;
        }
        for dir in &done.running {
            writeln!(
                out,
                "{state}: the group in {} runs on by itself; a daemon would adopt it",
                dir.display()
            )?;
        }
        for (dir, why) in &done.failed {
            writeln!(out, "{state}: the group in {} could not be recovered: {why}", dir.display())?;
        }
        is_quiet &= done.resumed.is_empty() && done.running.is_empty() && done.failed.is_empty();
    }
    if is_quiet {
        writeln!(out, "nothing was left parked")?;
    }
    Ok(())
}

fn to_json(state: &Path, recovery: &Recovery) -> Value {
    let paths =
        |dirs: &[PathBuf]| dirs.iter().map(|dir| dir.to_string_lossy().into_owned()).collect::<Vec<_>>();
    match recovery {
        Recovery::InUse => json!({"state": state.to_string_lossy(), "in_use": true}),
        Recovery::Done(done) => json!({
            "state": state.to_string_lossy(),
            "in_use": false,
            "resumed": done.resumed,
            "removed": paths(&done.removed),
            "running": paths(&done.running),
            "failed": done.failed.iter().map(|(dir, why)| json!({"dir": dir.to_string_lossy(), "why": why})).collect::<Vec<_>>(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use compartmentd::Recovered;

    use super::*;

    fn text(results: &[(PathBuf, Recovery)], is_json: bool) -> String {
        let mut out = Vec::new();
        print(&mut out, results, is_json).expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn resumed_are_listed() {
        let done = Recovered { resumed: vec![7, 8], running: vec!["/s/g".into()], ..Recovered::default() };
        let results = [("/s".into(), Recovery::Done(done)), ("/t".into(), Recovery::InUse)];

        let human = text(&results, false);
        assert!(human.starts_with("/s: resumed 7\n/s: resumed 8\n/s: the group in /s/g runs on"), "{human}");
        assert!(human.contains("/t: in use by a daemon"), "{human}");
        let json: Value = serde_json::from_str(&text(&results, true)).expect("JSON");
        assert_eq!(json[0]["resumed"][1], 8);
        assert_eq!(json[1]["in_use"], true);
        assert_eq!(text(&[], false), "nothing was left parked\n");
    }
}
