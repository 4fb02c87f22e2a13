//! What the end-to-end tests share: a daemon of one's own, programs that end with the test, and looks at `/proc`.
#![allow(dead_code, unreachable_pub)] // a module of each test file, which uses its part of it

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// The multi-call binary under test.
pub const EXE: &str = env!("CARGO_BIN_EXE_compartment");

static ONE: Mutex<()> = Mutex::new(());

/// Held by a test that measures or kills: such tests run one at a time, over all test binaries.
pub struct Alone {
    _lock: Flock<fs::File>,
    _one: MutexGuard<'static, ()>,
}

/// Waits for the turn of this test.
pub fn alone() -> Alone {
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let file = fs::File::create(std::env::temp_dir().join("compartments-tests.lock")).expect("a lock file");
    let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("a lock");
    Alone { _lock: lock, _one: one }
}

/// Says whether the test can run here; in CI it must.
pub fn can_run() -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        "root"
    } else if !Path::new("/dev/fuse").exists() {
        "/dev/fuse"
    } else {
        return true;
    };
    assert!(std::env::var_os("COMPARTMENTS_CI").is_none(), "a test that must run in CI needs {missing}");
    eprintln!("SKIPPED: needs {missing}");
    false
}

/// Polls until `what` gives something, for at most `seconds`.
pub fn wait_for<T>(seconds: u64, name: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = what() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {seconds} s in vain: {name}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program that is killed and reaped with the test.
pub struct Program(pub Child);

impl Program {
    /// Starts a command, on the CPU on which the tests measure.
    pub fn start(args: &[&str]) -> Self {
        let child = Command::new("taskset")
            .args(["-c", &cpu().to_string()])
            .args(args)
            .stdin(Stdio::null())
            .spawn()
            .expect("taskset from util-linux");
        let program = Self(child);
        wait_for(5, "the program to be executed", || {
            (fs::read_to_string(format!("/proc/{}/comm", program.pid())).ok()?.trim() != "taskset")
                .then_some(())
        });
        program
    }

    /// A busy loop in an ordinary shell.
    pub fn spin() -> Self {
        Self::start(&["sh", "-c", "while :; do :; done"])
    }

    /// A program that runs a shell script.
    pub fn shell(script: &str) -> Self {
        Self::start(&["sh", "-c", script])
    }

    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last CPU that we may use.
pub fn cpu() -> usize {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("our CPUs");
    (0..nix::sched::CpuSet::count()).rev().find(|&c| set.is_set(c) == Ok(true)).expect("a CPU")
}

/// A field of `/proc/PID/stat` after the name, the state being number 0.
pub fn stat_field(pid: i32, field: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(field).map(str::to_owned)
}

/// The state letter of a process.
pub fn state(pid: i32) -> Option<char> {
    stat_field(pid, 0)?.chars().next()
}

/// CPU time of a process, all threads, in milliseconds.
pub fn cpu_ms(pid: i32) -> f64 {
    let mut total = 0u64;
    for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
        total += text.split_whitespace().next().and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    }
    total as f64 / 1e6
}

/// Shares in percent of what these processes used together in `seconds`.
pub fn shares(pids: &[i32], seconds: u64) -> Vec<f64> {
    let before: Vec<f64> = pids.iter().map(|&p| cpu_ms(p)).collect();
    std::thread::sleep(Duration::from_secs(seconds));
    let used: Vec<f64> = pids.iter().zip(before).map(|(&p, b)| cpu_ms(p) - b).collect();
    let total: f64 = used.iter().sum();
    used.iter().map(|u| 100.0 * u / total).collect()
}

/// Measures until the shares are as expected, three times at most: the machine is shared.
pub fn assert_shares(pids: &[i32], expected: &[f64], tolerance: f64, seconds: u64) {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let got = shares(pids, seconds);
        if got.iter().zip(expected).all(|(g, e)| (g - e).abs() <= tolerance) {
            return;
        }
        seen.push(got);
    }
    panic!("shares {seen:.1?}, expected {expected:?} within {tolerance}");
}

/// The v2 cgroup of a process.
pub fn cgroup_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("").to_owned()
}

/// Whether nothing of ours holds any thread of the process: no frozen cgroup, no stop.
pub fn is_free(pid: i32) -> bool {
    let mount = fs::read_to_string("/proc/mounts")
        .unwrap_or_default()
        .lines()
        .find(|l| l.split(' ').nth(2) == Some("cgroup2"))
        .and_then(|l| l.split(' ').nth(1).map(PathBuf::from));
    let Some(mount) = mount else { return state(pid) != Some('T') };
    for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let path = text.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or("").to_owned();
        if path.contains("compartment.") {
            let frozen = fs::read_to_string(mount.join(path).join("cgroup.freeze")).unwrap_or_default();
            if frozen.trim() == "1" {
                return false;
            }
        }
    }
    state(pid) != Some('T')
}

/// A daemon of this test's own, on a mount and a state directory of its own.
pub struct Daemon {
    pub mount: PathBuf,
    pub state: PathBuf,
    dir: tempfile::TempDir,
    child: Child,
    mode: Option<String>,
}

impl Daemon {
    /// Starts one with the modes that it chooses itself.
    pub fn start() -> Self {
        Self::with_mode(None)
    }

    /// Starts one whose groups use these parts of the driver.
    pub fn with_mode(mode: Option<&str>) -> Self {
        let dir = tempfile::Builder::new().prefix("cmpt-test-").tempdir().expect("a directory");
        // Ordinary users of the tests go through it.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
        let (mount, state) = (dir.path().join("tree"), dir.path().join("state"));
        fs::create_dir(&mount).expect("a mount point");
        let child = spawn(&mount, &state, mode);
        let daemon = Self { mount, state, dir, child, mode: mode.map(str::to_owned) };
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
        self.child = spawn(&self.mount, &self.state, self.mode.as_deref());
        self.wait_ready();
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// A path in the tree.
    pub fn path(&self, path: &str) -> PathBuf {
        self.mount.join(path)
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("read {path}: {e}"))
    }

    pub fn write(&self, path: &str, value: &str) -> std::io::Result<()> {
        fs::write(self.path(path), value)
    }

    pub fn mkdir(&self, name: &str) {
        fs::create_dir(self.path("sched-groups").join(name)).unwrap_or_else(|e| panic!("mkdir {name}: {e}"));
    }

    /// Moves a process from the host's group.
    pub fn join(&self, group: &str, pid: i32) -> std::io::Result<()> {
        self.rename("0", group, pid)
    }

    pub fn rename(&self, from: &str, to: &str, pid: i32) -> std::io::Result<()> {
        let groups = self.path("sched-groups");
        fs::rename(groups.join(from).join(pid.to_string()), groups.join(to).join(pid.to_string()))
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

    /// Keepers and workers of this daemon's groups, the keeper first.
    pub fn drivers(&self) -> Vec<i32> {
        let state = self.state.display().to_string();
        let mut pids = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|s| s.parse::<i32>().ok()) else { continue };
            let cmdline = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let args: Vec<_> =
                cmdline.split(|&b| b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
            if args.get(1).is_some_and(|a| a == "keeper")
                && args.get(2).is_some_and(|a| a.starts_with(&state))
            {
                pids.push(pid);
            }
        }
        pids.sort_unstable();
        pids
    }

    /// The one keeper and its worker.
    pub fn keeper_and_worker(&self) -> (i32, i32) {
        wait_for(10, "one keeper and one worker", || {
            let pids = self.drivers();
            let worker = pids.iter().copied().find(|&p| {
                stat_field(p, 1).and_then(|pp| pp.parse().ok()).is_some_and(|pp: i32| pids.contains(&pp))
            })?;
            let keeper = stat_field(worker, 1)?.parse().ok()?;
            (pids.len() == 2).then_some((keeper, worker))
        })
    }
}

fn spawn(mount: &Path, state: &Path, mode: Option<&str>) -> Child {
    let mut command = Command::new(EXE);
    command
        .args(["daemon", "--foreground", "--dissolve-on-exit", "--mount"])
        .arg(mount)
        .arg("--state")
        .arg(state);
    if let Some(mode) = mode {
        command.args(["--force-mode", mode]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the daemon")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        while !self.drivers().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let left = self.drivers();
        for pid in &left {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = Command::new(EXE).arg("recover").arg("--state").arg(&self.state).output();
        let _ = nix::mount::umount2(&self.mount, nix::mount::MntFlags::MNT_DETACH);
        if !std::thread::panicking() {
            assert!(left.is_empty(), "the daemon has left {left:?}");
            assert!(self.dir.path().exists());
        }
    }
}
