//! A host on which no group works: a daemon that idles, groups that are idle.

use std::time::Duration;

use anyhow::Result;

use crate::bench::procs::{Load, switches_of_all_threads};
use crate::bench::report::{On, Row, Target};
use crate::bench::{Bench, Series, start_daemon};

const KINDS: [(&str, &str); 3] = [("spin-count", "counting"), ("pingpong", "pipe"), ("forks", "fork")];
/// From what is on the host: nothing of ours, an idle daemon, one with ten idle groups.
const STATES: [&str; 3] = ["bare", "daemon idle", "ten idle groups"];
const NR_GROUPS: usize = 10;

/// Ungrouped programs, and wake-ups of ours.
pub(super) fn unused(bench: &Bench) -> Result<Vec<Row>> {
    let mut rates: [[Series; 3]; 3] = Default::default();
    let mut wakeups = Series::default();
    // The bench's own daemon has no group now, but is there; it is stopped for the bare state.
    for turn in 0..bench.runs {
        for i in 0..STATES.len() {
            let state = (turn + i) % STATES.len();
            let measured = in_state(bench, state, &mut wakeups)?;
            for (series, rate) in rates[state].iter_mut().zip(measured) {
                series.0.push(rate);
            }
        }
    }
    let mut rows = Vec::new();
    let [bare, ref rest @ ..] = rates;
    for (state, series) in STATES[1..].iter().zip(rest) {
        for (kind, (_, name)) in KINDS.iter().enumerate() {
            rows.push(
                Row::new(format!("(i) ungrouped {name} benchmark, {state}"), "/s", 0, series[kind].clone())
                    .beside("bare", bare[kind].clone())
                    .target(On::Ratio, Target::AtLeast(0.995)),
            );
        }
    }
    rows.push(
        Row::new("(i) wake-ups of ours, ten idle groups", "/s", 2, wakeups)
            .target(On::Ours, Target::AtMost(0.0)),
    );
    Ok(rows)
}

fn in_state(bench: &Bench, state: usize, wakeups: &mut Series) -> Result<Vec<f64>> {
    // Bare means that nothing of ours is there, so each state has a daemon of its own or none; the bench's idles in all of them alike
    // and is stopped meanwhile.
    let _stopped = Stopped::new(bench.daemon.pid());
    let daemon = if state == 0 { None } else { Some(start_daemon(&bench.program, bench.cpu)?) };
    let groups = match &daemon {
        Some(daemon) if state == 2 => {
            (0..NR_GROUPS).map(|n| daemon.group(&format!("idle-{n}"), &[])).collect::<Result<Vec<_>>>()?
        }
        _ => Vec::new(),
    };
    let mut rates = Vec::new();
    for (kind, _) in KINDS {
        let load = Load::counting(bench.cpu, kind, bench.scratch.path(), &format!("unused-{kind}"))?;
        std::thread::sleep(Duration::from_millis(300));
        let before = load.count()?;
        let length = bench.pass();
        rates.push((load.count()? - before) as f64 / (length / 1e9));
    }
    if let Some(daemon) = &daemon
        && state == 2
    {
        let ours: Vec<u32> =
            daemon.processes().into_iter().filter(|&pid| pid != bench.daemon.pid()).collect();
        let switches = || ours.iter().map(|&pid| switches_of_all_threads(pid)).sum::<u64>();
        let before = switches();
        let length = bench.pass();
        wakeups.0.push((switches() - before) as f64 / (length / 1e9));
    }
    drop(groups);
    Ok(rates)
}

/// The bench's own daemon, out of the way.
struct Stopped(nix::unistd::Pid);

impl Stopped {
    fn new(pid: u32) -> Self {
        let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGCONT);
    }
}
