//! Real programs in a group.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::bench::report::{On, Row, Target};
use crate::bench::{AllCpus, Bench, Fence, Side};
use crate::step;

/// stress-ng's stressors, which must end without an error; their rates beside those in a cpu cgroup.
pub(super) fn stress(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for stressor in ["cpu", "fork", "switch", "schedpolicy", "yield"] {
        let pairs = bench.pairs(|side| {
            let fence = bench.fence(side, "stress", None)?;
            let seconds = bench.window.as_secs().min(5);
            let stress = format!("stress-ng --{stressor} 2 --timeout {seconds}s --metrics-brief");
            let words = stress.split(' ');
            let mut command = match &fence {
                Fence::Ours(group) => {
                    let mut command = bench.daemon.command(&["run", "--group", group.name(), "--"]);
                    command.args(words);
                    command
                }
                Fence::Peer(cgroup) => {
                    let mut command = Command::new("sh");
                    command.args(["-c", &format!("echo $$ > {} && exec {stress}", cgroup.procs().display())]);
                    command
                }
            };
            let _all = AllCpus::new(bench.cpu)?;
            let output = command.stdin(Stdio::null()).output().context("run stress-ng")?;
            let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            if !output.status.success() && side == Side::Ours {
                eprintln!("{text}");
            }
            Ok(vec![f64::from(u8::from(!output.status.success())), rate(&text, stressor)])
        })?;
        rows.push(
            Row::new(format!("(j) stress-ng {stressor}: failed runs"), "", 0, pairs.ours(0))
                .target(On::Ours, Target::AtMost(0.0)),
        );
        rows.push(
            Row::new(format!("(j) stress-ng {stressor}: bogo ops"), "/s", 0, pairs.ours(1))
                .beside("cgroup", pairs.peer(1)),
        );
    }
    Ok(rows)
}

/// Bogo operations per second of real time: the line `stress-ng: info: [PID] cpu 1234 5.00 9.98 0.00 246.8 123.4`.
fn rate(text: &str, stressor: &str) -> f64 {
    let line = text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|w| !w.ends_with(']')).skip(1);
        (words.next() == Some(stressor)).then(|| words.nth(4)).flatten()
    });
    line.and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
}

/// A cold build of a small crate with its dependencies.
pub(super) fn build(bench: &Bench) -> Result<Vec<Row>> {
    let pairs = bench.pairs(|side| {
        let target = tempfile::tempdir().context("make a directory")?;
        let cargo = crate::cargo();
        let build = [&cargo, "build", "--offline", "--quiet", "--package", "host-sys", "--target-dir"];
        let mut command = match side {
            Side::Ours => {
                let vcpus = bench.nr_cpus.to_string();
                let mut command = bench.daemon.command(&["run", "--name", "build", "--vcpus", &vcpus, "--"]);
                command.args(build);
                command
            }
            Side::Peer => {
                let mut command = Command::new(build[0]);
                command.args(&build[1..]);
                command
            }
        };
        command.arg(target.path()).current_dir(crate::root()).stdin(Stdio::null());
        // The build takes all CPUs that it may use: also the one that we keep away from.
        let _all = AllCpus::new(bench.cpu)?;
        let started = Instant::now();
        step::run(&mut command, Duration::from_secs(900))?;
        let took = started.elapsed();
        if !target.path().join("debug").is_dir() {
            bail!("nothing was built");
        }
        Ok(vec![took.as_secs_f64()])
    })?;
    Ok(vec![
        Row::new("(k) cold build in a full-share group", " s", 2, pairs.ours(0))
            .beside("bare", pairs.peer(0))
            .target(On::Ratio, Target::AtMost(1.03)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_found_in_the_line_of_the_stressor() {
        let text = "stress-ng: info:  [7] stressor bogo ops real time usr time\n\
                    stress-ng: info:  [7] cpu 2501 5.00 9.98 0.01 500.05 250.35\n";
        assert_eq!(rate(text, "cpu"), 500.05);
        assert!(rate(text, "fork").is_nan());
    }
}
