//! The peers: the kernel's cpu cgroups, and `cpulimit`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How the names of our cgroups begin.
pub(super) const PREFIX: &str = "compartment-bench.";

/// Where cpu cgroups can be made.
#[derive(Clone, Debug)]
pub(super) struct CpuController {
    parent: PathBuf,
    is_v1: bool,
}

impl CpuController {
    /// Finds the controller: a v1 hierarchy, else v2 if its root hands the controller down.
    pub(super) fn find() -> Result<Self> {
        let mounts = mounts()?;
        if let Some((at, ..)) =
            mounts.iter().find(|(_, kind, opts)| kind == "cgroup" && opts.split(',').any(|o| o == "cpu"))
        {
            return Ok(Self { parent: at.clone(), is_v1: true });
        }
        for (at, ..) in mounts.iter().filter(|(_, kind, _)| kind == "cgroup2") {
            let control = at.join("cgroup.subtree_control");
            let has = |text: String| text.split_whitespace().any(|c| c == "cpu");
            if fs::read_to_string(at.join("cgroup.controllers")).is_ok_and(has) {
                let _ = fs::write(&control, "+cpu");
                if fs::read_to_string(&control).is_ok_and(has) {
                    return Ok(Self { parent: at.clone(), is_v1: false });
                }
            }
        }
        bail!("no cpu cgroup can be made here: there is no peer to compare with")
    }

    /// The cgroup in which ours are made.
    pub(super) fn parent(&self) -> &Path {
        &self.parent
    }

    /// Makes a cgroup of default weight.
    pub(super) fn group(&self, name: &str) -> Result<CpuCgroup> {
        let dir = self.parent.join(format!("{PREFIX}{}.{name}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(CpuCgroup { parent: self.parent.clone(), dir, is_v1: self.is_v1 })
    }
}

/// Where something is mounted, of which kind, with which options.
pub(super) fn mounts() -> Result<Vec<(PathBuf, String, String)>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

fn parse_mount(line: &str) -> Option<(PathBuf, String, String)> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    Some((left.split(' ').nth(4)?.into(), right.next()?.to_owned(), right.nth(1)?.to_owned()))
}

/// A cpu cgroup; when dropped, its members go back and it is removed.
#[derive(Debug)]
pub(super) struct CpuCgroup {
    parent: PathBuf,
    dir: PathBuf,
    is_v1: bool,
}

impl CpuCgroup {
    /// Moves a process in.
    pub(super) fn take(&self, pid: u32) -> Result<()> {
        let file = self.procs();
        fs::write(&file, pid.to_string()).with_context(|| format!("move {pid} into {}", self.dir.display()))
    }

    /// The file that takes processes.
    pub(super) fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Sets a cap, in microseconds.
    pub(super) fn cap(&self, quota: u64, period: u64) -> Result<()> {
        let write = |file: &str, text: String| {
            fs::write(self.dir.join(file), text).with_context(|| format!("set {file}"))
        };
        if self.is_v1 {
            write("cpu.cfs_period_us", period.to_string())?;
            write("cpu.cfs_quota_us", quota.to_string())
        } else {
            write("cpu.max", format!("{quota} {period}"))
        }
    }
}

impl Drop for CpuCgroup {
    fn drop(&mut self) {
        for _ in 0..200 {
            let members = fs::read_to_string(self.procs()).unwrap_or_default();
            for pid in members.lines() {
                let _ = fs::write(self.parent.join("cgroup.procs"), pid);
            }
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        eprintln!("cannot remove {}", self.dir.display());
    }
}

/// `cpulimit` at work on one process; when dropped, the process runs free.
#[derive(Debug)]
pub(super) struct CpuLimit {
    limiter: Child,
    target: u32,
}

impl CpuLimit {
    pub(super) fn start(pid: u32, percent: u32) -> Result<Self> {
        let mut command = Command::new("cpulimit");
        command.args(["-l", &percent.to_string(), "-p", &pid.to_string(), "-z"]);
        let limiter = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start cpulimit (cargo xtask setup installs it)")?;
        Ok(Self { limiter, target: pid })
    }
}

impl Drop for CpuLimit {
    fn drop(&mut self) {
        let _ = self.limiter.kill();
        let _ = self.limiter.wait();
        // It may have been killed with its target stopped.
        let _ = Command::new("kill").args(["-CONT", &self.target.to_string()]).status();
    }
}

/// Removes what an earlier bench that was killed has left.
pub(super) fn clean_up() {
    let Ok(controller) = CpuController::find() else { return };
    let entries = fs::read_dir(&controller.parent).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX)) {
        if let Some(maker) = maker_of(&entry.path())
            && Path::new("/proc").join(&maker).exists()
        {
            continue;
        }
        drop(CpuCgroup { parent: controller.parent.clone(), dir: entry.path(), is_v1: controller.is_v1 });
    }
}

/// The process that made something of ours, by its name.
pub(super) fn maker_of(dir: &Path) -> Option<String> {
    let name = dir.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    Some(name.split('.').next()?.to_owned())
}
