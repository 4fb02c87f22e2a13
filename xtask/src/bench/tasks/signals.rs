//! How long a signal takes to whom it is for.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::Bench;
use crate::bench::Side;
use crate::bench::procs::Load;
use crate::bench::report::{On, Row, Target};
use crate::bench::stats::percentile;

fn now() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    Ok(now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}

/// Sends so many, one after the other was heard of; gives p50 and p99 in microseconds.
fn run(nr: usize, load: &mut Load, mut send: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(nr);
    for _ in 0..nr {
        let sent = now()?;
        send()?;
        let heard = *load.hear()?.first().context("a load tells when")?;
        times.push(heard.saturating_sub(sent));
    }
    Ok([0.5, 0.99].map(|part| percentile(&mut times, part) as f64 / 1e3).to_vec())
}

pub(super) fn all(bench: &Bench) -> Result<Vec<Row>> {
    let nr = bench.sized(500, 5_000);
    let mut application = bench.application(1)?;
    let path = application.task()?.join("signal");
    let mut file = fs::File::options().write(true).open(&path).context("open a task's signal file")?;
    let mut process = Load::telling(&["sigwait"])?;
    process.hear()?;
    let pid = Pid::from_raw(process.pid().cast_signed());
    let pairs = bench.pairs(|side| match side {
        Side::Ours => run(nr, &mut application.load, || file.write_all(b"TERM").context("send a signal")),
        Side::Peer => run(nr, &mut process, || kill(pid, Signal::SIGTERM).context("send a signal")),
    })?;
    Ok(vec![
        Row::new("(b) p50", " µs", 1, pairs.ours(0))
            .beside("kill(2)", pairs.peer(0))
            .target(On::Ours, Target::AtMost(50.0)),
        Row::new("(b) p99", " µs", 1, pairs.ours(1)).beside("kill(2)", pairs.peer(1)),
    ])
}
