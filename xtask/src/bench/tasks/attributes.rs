//! A file of the tree: opened, read, closed.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{Bench, median_of};
use crate::bench::Side;
use crate::bench::peer::CpuController;
use crate::bench::report::{On, Row, Target};
use crate::step::has_program;

/// A process, by default all threads of it, on one CPU for a while.
struct Pinned {
    threads: Vec<(Pid, CpuSet)>,
}

impl Pinned {
    fn new(pids: &[u32], cpu: usize) -> Result<Self> {
        let mut one = CpuSet::new();
        one.set(cpu)?;
        let mut pinned = Self { threads: Vec::new() };
        for pid in pids {
            for entry in fs::read_dir(format!("/proc/{pid}/task")).context("list threads")?.flatten() {
                let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                let tid = Pid::from_raw(tid);
                let before = sched_getaffinity(tid).context("look where a thread may run")?;
                sched_setaffinity(tid, &one).context("pin a thread")?;
                pinned.threads.push((tid, before));
            }
        }
        Ok(pinned)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        for (tid, before) in &self.threads {
            let _ = sched_setaffinity(*tid, before);
        }
    }
}

/// An lxcfs of our own; unmounted when dropped.
struct Lxcfs {
    child: Child,
    dir: TempDir,
}

impl Lxcfs {
    fn start() -> Result<Self> {
        let dir = tempfile::tempdir().context("make a directory")?;
        let mount = dir.path().join("mount");
        fs::create_dir(&mount)?;
        let child = Command::new("lxcfs")
            .arg("-f")
            .arg("-p")
            .arg(dir.path().join("pid"))
            .arg(&mount)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start lxcfs")?;
        let lxcfs = Self { child, dir };
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::read(lxcfs.file()).is_err() {
            if Instant::now() > deadline {
                bail!("lxcfs does not come up");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(lxcfs)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("mount/proc/uptime")
    }
}

impl Drop for Lxcfs {
    fn drop(&mut self) {
        let _ = umount2(&self.dir.path().join("mount"), MntFlags::MNT_DETACH);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The median in microseconds; one read, as values are short.
fn read(nr: usize, path: &Path) -> Result<f64> {
    let mut buffer = [0; 4096];
    let mut once = || fs::File::open(path)?.read(&mut buffer);
    median_of(nr, || once().map(drop).with_context(|| format!("read {}", path.display())))
}

pub(super) fn all(bench: &Bench) -> Result<Vec<Row>> {
    let nr = bench.sized(2_000, 20_000);
    let controller = CpuController::find()?;
    let _cgroup = controller.group("attributes")?;
    let name = format!("{}{}.attributes", crate::bench::peer::PREFIX, std::process::id());
    let cgroup_file = controller.parent().join(name).join("cgroup.procs");
    let application = bench.application(10)?;
    let group = bench.daemon.group("attributes", &[])?;
    let tree = bench.daemon.tree().join("sched-groups");
    let files = [
        ("guest task's comm", application.task()?.join("comm")),
        ("group's nice", tree.join(group.name()).join("nice")),
    ];
    let lxcfs = has_program("lxcfs").then(Lxcfs::start).transpose();
    let lxcfs = lxcfs.inspect_err(|error| eprintln!("    nothing beside lxcfs: {error:#}")).ok().flatten();
    let cpu = *super::super::allowed_cpus()?.last().context("there is no CPU")?;
    let mut rows = Vec::new();
    for (place, is_pinned) in [("same CPU", true), ("unpinned", false)] {
        let mut processes = vec![std::process::id(), bench.daemon.pid()];
        processes.extend(lxcfs.as_ref().map(|lxcfs| lxcfs.child.id()));
        let _pinned = is_pinned.then(|| Pinned::new(&processes, cpu)).transpose()?;
        let target = if is_pinned { Target::AtMost(15.0) } else { Target::None };
        for (what, file) in &files {
            let mut peers = vec![("cgroupfs", cgroup_file.clone())];
            peers.extend(lxcfs.as_ref().map(|lxcfs| ("lxcfs", lxcfs.file())));
            for (peer, other) in peers {
                let pairs = bench
                    .pairs(|side| Ok(vec![read(nr, if side == Side::Ours { file } else { &other })?]))?;
                rows.push(
                    Row::new(format!("(d) {what}, {place}"), " µs", 1, pairs.ours(0))
                        .beside(peer, pairs.peer(0))
                        .target(On::Ours, if peer == "cgroupfs" { target } else { Target::None }),
                );
            }
        }
    }
    Ok(rows)
}
