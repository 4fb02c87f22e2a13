//! A daemon of one's own.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guest_sched::host::cgroup;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::proc::parent;
use super::{EXE, wait_for};

/// A daemon on a mount and a state directory of its own. Its end takes everything of it away, and checks that nothing is left.
pub struct Daemon {
    pub mount: PathBuf,
    pub state: PathBuf,
    child: Child,
    mode: Option<String>,
    descriptors: Option<u32>,
    log: PathBuf,
    // Last: removed when all else is gone.
    _dir: tempfile::TempDir,
}

impl Daemon {
    /// Starts one with the modes that it chooses itself.
    pub fn start() -> Self {
        Self::with_mode(None)
    }

    /// Starts one whose groups use these parts of the driver.
    pub fn with_mode(mode: Option<&str>) -> Self {
        Self::with(mode, None)
    }

    /// Starts one that may have so many descriptors.
    pub fn with_descriptors(nr: u32) -> Self {
        Self::with(None, Some(nr))
    }

    fn with(mode: Option<&str>, descriptors: Option<u32>) -> Self {
        let dir = tempfile::Builder::new().prefix("cmpt-test-").tempdir().expect("a directory");
        // Ordinary users of the tests go through it.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        let (mount, state) = (dir.path().join("tree"), dir.path().join("state"));
        fs::create_dir(&mount).expect("a mount point");
        let log = dir.path().join("log");
        let child = spawn(&mount, &state, mode, descriptors, &log);
        let mode = mode.map(str::to_owned);
        let daemon = Self { mount, state, child, mode, descriptors, log, _dir: dir };
        daemon.wait_ready();
        daemon
    }

    fn wait_ready(&self) {
        wait_for(15, "the daemon to serve", || fs::read_to_string(self.mount.join("version")).ok());
    }

    /// Kills it with -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts another one on the same directories.
    pub fn restart(&mut self) {
        self.child = spawn(&self.mount, &self.state, self.mode.as_deref(), self.descriptors, &self.log);
        self.wait_ready();
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// A path in the tree.
    pub fn path(&self, path: &str) -> PathBuf {
        self.mount.join(path)
    }

    /// Reads a file of the tree. The worker may just be replaced: then it is read again.
    pub fn read(&self, path: &str) -> String {
        wait_for(10, &format!("{path} to be read"), || fs::read_to_string(self.path(path)).ok())
    }

    pub fn write(&self, path: &str, value: &str) -> io::Result<()> {
        fs::write(self.path(path), value)
    }

    pub fn mkdir(&self, name: &str) {
        fs::create_dir(self.path("sched-groups").join(name)).unwrap_or_else(|e| panic!("mkdir {name}: {e}"));
    }

    pub fn rmdir(&self, name: &str) -> io::Result<()> {
        fs::remove_dir(self.path("sched-groups").join(name))
    }

    /// Makes a group with a fixed slice.
    pub fn group(&self, name: &str, slice_usec: u32) {
        self.mkdir(name);
        self.write(&format!("sched-groups/{name}/slice_usec"), &slice_usec.to_string()).expect("a slice");
    }

    /// Moves a process from the host's group.
    pub fn join(&self, group: &str, pid: i32) -> io::Result<()> {
        self.rename("0", group, pid)
    }

    pub fn rename(&self, from: &str, to: &str, pid: i32) -> io::Result<()> {
        let groups = self.path("sched-groups");
        fs::rename(groups.join(from).join(pid.to_string()), groups.join(to).join(pid.to_string()))
    }

    /// The PID that stands for a group.
    pub fn representative(&self, group: &str) -> i32 {
        self.read(&format!("sched-groups/{group}/representative")).trim().parse().expect("a PID")
    }

    /// Nests a group of the host's in another one.
    pub fn nest(&self, inner: &str, outer: &str) -> io::Result<()> {
        self.join(outer, self.representative(inner))
    }

    /// Members of a group.
    pub fn members(&self, group: &str) -> Vec<i32> {
        let mut pids: Vec<i32> = fs::read_dir(self.path("sched-groups").join(group))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        pids
    }

    /// A value of a flat-keyed file.
    pub fn key(&self, path: &str, key: &str) -> Option<String> {
        let text = self.read(path);
        text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ').map(str::to_owned))
    }

    /// A number of a flat-keyed file.
    pub fn number(&self, path: &str, key: &str) -> f64 {
        let text = self.key(path, key).unwrap_or_else(|| panic!("{path} has no {key}"));
        text.parse().unwrap_or_else(|e| panic!("{path} {key} {text}: {e}"))
    }

    /// Keepers and workers of this daemon's groups.
    pub fn drivers(&self) -> Vec<i32> {
        drivers(&self.state)
    }

    /// What it, its keepers and workers have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Opens `events`; what happens from now on can be read from it.
    pub fn events(&self) -> fs::File {
        let mut options = fs::File::options();
        options.read(true).custom_flags(libc::O_NONBLOCK).open(self.path("events")).expect("events")
    }

    /// What there is to say of a group's members when a test has failed.
    pub fn tell(&self, group: &str) -> String {
        let file = |pid: i32, f: &str| {
            let at = self.path("sched-groups").join(group).join(pid.to_string()).join(f);
            fs::read_to_string(at).unwrap_or_else(|e| e.to_string()).replace('\n', " ")
        };
        let tell =
            |pid| format!("{pid}: {}| {}| {}\n", file(pid, "state"), file(pid, "sched"), file(pid, "stat"));
        self.members(group).into_iter().map(tell).collect()
    }

    /// The keeper and the worker of the one group that there is.
    pub fn keeper_and_worker(&self) -> (i32, i32) {
        wait_for(20, "one keeper and one worker", || {
            let pids = self.drivers();
            let worker = pids.iter().copied().find(|&p| parent(p).is_some_and(|pp| pids.contains(&pp)))?;
            (pids.len() == 2).then(|| parent(worker).map(|keeper| (keeper, worker)))?
        })
    }

    /// Runs `compartment recover` on its state.
    pub fn recover(&self) -> std::process::Output {
        Command::new(EXE).arg("recover").arg("--state").arg(&self.state).output().expect("recover")
    }

    /// Ends it with SIGTERM, its groups dissolved, and waits for that.
    pub fn stop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }

    /// What is left of it.
    fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = self.drivers().iter().map(|p| format!("process {p}")).collect();
        if self.is_mounted() {
            left.push(format!("mount {}", self.mount.display()));
        }
        left.extend(self.cgroups().iter().map(|dir| format!("cgroup {}", dir.display())));
        left
    }

    fn is_mounted(&self) -> bool {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let at = self.mount.to_string_lossy();
        text.lines().any(|line| line.split(' ').nth(4) == Some(&at))
    }

    /// Cgroups of its groups. Their names have a hash of the group's state directory.
    fn cgroups(&self) -> Vec<PathBuf> {
        let ours: Vec<String> =
            (1..1000).map(|n| format!("compartment.{}", tag(&self.state.join(format!("g{n}"))))).collect();
        let mounts = [cgroup::v2_mount(), cgroup::v1_cpu_mount()].into_iter().flatten();
        let all = mounts.flat_map(|mount| cgroup::find_ours(&mount, cgroup::PREFIX));
        all.filter(|dir| {
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            ours.iter().any(|tag| name.starts_with(tag.as_str()))
        })
        .collect()
    }
}

/// As the driver makes it.
fn tag(state_dir: &Path) -> String {
    let hash = state_dir
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{:08x}", hash as u32 ^ (hash >> 32) as u32)
}

/// Keepers and workers with a state directory in this one.
pub fn drivers(state: &Path) -> Vec<i32> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|s| s.parse::<i32>().ok()) else { continue };
        let cmdline = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let args: Vec<_> =
            cmdline.split(|&b| b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        if args.get(1).is_some_and(|a| a == "keeper" || a == "mem-keeper")
            && args.get(2).is_some_and(|a| Path::new(a).starts_with(state))
        {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    pids
}

fn spawn(mount: &Path, state: &Path, mode: Option<&str>, descriptors: Option<u32>, log: &Path) -> Child {
    let mut command = match descriptors {
        None => Command::new(EXE),
        Some(nr) => {
            let mut command = Command::new("prlimit");
            command.arg(format!("--nofile={nr}:{nr}")).arg(EXE);
            command
        }
    };
    command
        .args(["daemon", "--foreground", "--dissolve-on-exit", "--mount"])
        .arg(mount)
        .arg("--state")
        .arg(state);
    if let Some(mode) = mode {
        command.args(["--force-mode", mode]);
    }
    let log = fs::File::options().create(true).append(true).open(log).expect("a log");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the daemon")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let is_failed = std::thread::panicking();
        self.stop();
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.leftovers().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let left = self.leftovers();
        if is_failed || !left.is_empty() {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
        if left.is_empty() {
            return;
        }
        // Each brings the other back to life.
        while !self.drivers().is_empty() && Instant::now() < deadline + Duration::from_secs(5) {
            for pid in self.drivers() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = self.recover();
        for dir in self.cgroups() {
            let _ = cgroup::undo(&dir);
        }
        let _ = umount2(&self.mount, MntFlags::MNT_DETACH);
        if std::thread::panicking() {
            eprintln!("the daemon has left {left:?}");
        } else {
            panic!("the daemon has left {left:?}");
        }
    }
}
