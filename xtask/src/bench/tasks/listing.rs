//! Many tasks at once.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Bench, timed};
use crate::bench::Side;
use crate::bench::procs::Load;
use crate::bench::report::Row;
use crate::bench::stats::Series;

/// More processes than this are not started to compare with.
const MOST_PROCESSES: usize = 1_000;

fn names(dir: &Path) -> Result<f64> {
    timed(|| Ok(fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?.count()))
}

/// What ps reads of each process.
fn proc_of_all() -> Result<f64> {
    timed(|| {
        for entry in fs::read_dir("/proc").context("list /proc")?.flatten() {
            if entry.file_name().as_encoded_bytes()[0].is_ascii_digit() {
                // It may have ended.
                let _ = fs::read(entry.path().join("stat"));
                let _ = fs::read(entry.path().join("cmdline"));
            }
        }
        Ok(())
    })
}

/// Bytes of memory.
fn resident(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("look at the daemon")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("it has no memory")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("a size is a number")?;
    Ok(kib * 1024)
}

pub(super) fn all(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let sizes = [10, 1_000, 100_000, 1_000_000];
    for nr in sizes.into_iter().filter(|nr| *nr < 1_000_000 || !bench.is_quick) {
        let before = resident(bench.daemon.pid())?;
        let application = bench.application(nr)?;
        // The tasks get their numbers at the first look.
        names(&application.group)?;
        if nr > MOST_PROCESSES {
            let grown = resident(bench.daemon.pid())?.saturating_sub(before);
            let a_task = Series(vec![grown as f64 / nr as f64]);
            rows.push(Row::new(format!("(c) {nr} tasks, the daemon's memory for each"), " bytes", 0, a_task));
        }
        let has_peer = nr <= MOST_PROCESSES;
        let mut sleepers = None;
        if has_peer {
            let mut load = Load::telling(&["sleepers", "--nr", &nr.to_string()])?;
            load.hear()?;
            sleepers = Some(load);
        }
        let pairs = bench.pairs(|side| match side {
            Side::Ours => {
                let all = timed(|| fs::read(application.group.join("tasks")).context("read the tasks"))?;
                Ok(vec![names(&application.group)? / 1e3, all / 1e3])
            }
            Side::Peer if has_peer => Ok(vec![names(Path::new("/proc"))? / 1e3, proc_of_all()? / 1e3]),
            Side::Peer => Ok(vec![]),
        })?;
        for (metric, what) in ["names", "all"].into_iter().enumerate() {
            let row = Row::new(format!("(c) {nr} tasks, {what}"), " ms", 3, pairs.ours(metric));
            rows.push(if has_peer { row.beside("/proc", pairs.peer(metric)) } else { row });
        }
        drop(sleepers);
    }
    Ok(rows)
}
