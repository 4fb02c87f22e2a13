//! What the end-to-end tests share: a daemon of one's own, programs that end with the test, and looks at `/proc`.
#![allow(dead_code, unreachable_pub, unused_imports)] // a module of each test file, which uses its part of it

pub mod actor;
pub mod app;
mod daemon;
pub mod pages;
mod pools;
mod proc;
mod sys;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use daemon::{Daemon, drivers};
pub use pools::{Pools, agents, can_run_memory, checker, names};
pub use proc::*;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The multi-call binary under test.
pub const EXE: &str = env!("CARGO_BIN_EXE_compartment");

/// Two ordinary users.
pub const USERS: [u32; 2] = [65_534, 65_533];

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

/// Says whether a test can run here that needs more than a kernel; in CI it must.
pub fn need(what: &str, is_there: bool) -> bool {
    assert!(
        is_there || std::env::var_os("COMPARTMENTS_CI").is_none(),
        "a test that must run in CI needs {what}"
    );
    if !is_there {
        eprintln!("SKIPPED: needs {what}");
    }
    is_there
}

/// Says whether a daemon of root's can run here.
pub fn can_run() -> bool {
    need("root", nix::unistd::geteuid().is_root()) && need("/dev/fuse", Path::new("/dev/fuse").exists())
}

/// Says whether a program is there.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    need(program, std::env::split_paths(&path).any(|dir| dir.join(program).exists()))
}

/// A shell command with a terminal of its own; its last program takes the shell's place if it is run by `exec`.
/// The shell is the same whoever runs the tests: some stay beside their last program, some do not.
pub fn in_terminal(line: &str) -> Command {
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", line, "/dev/null"]).env("SHELL", "/bin/sh");
    command
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

/// Polls until a condition holds, for at most `seconds`.
pub fn wait_until(seconds: u64, name: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(seconds, name, || is_so().then_some(()));
}

/// Sends a signal; it is no error if the process is gone.
pub fn signal(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Kills with -9.
pub fn kill9(pid: i32) {
    signal(pid, Signal::SIGKILL);
}

/// The errno of something refused.
pub fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(e) => e.raw_os_error().unwrap_or(-1),
    }
}

/// Runs a shell script as root, and gives what it wrote.
pub fn sh(script: &str) -> Output {
    Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output().expect("sh")
}

/// Runs a shell script as an ordinary user.
pub fn sh_as(uid: u32, script: &str) -> Output {
    as_user(uid, &["sh", "-c", script]).stdin(Stdio::null()).output().expect("setpriv from util-linux")
}

/// A command run by an ordinary user.
pub fn as_user(uid: u32, args: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]).args(args);
    command
}

/// A program that is killed and reaped with the test, with what it has started and what is not in a session of its own.
pub struct Program(pub Child);

impl Program {
    /// Starts a command, on the CPU on which the tests measure.
    pub fn start(args: &[&str]) -> Self {
        Self::on(Some(cpu()), args, None)
    }

    fn on(cpu: Option<usize>, args: &[&str], role: Option<&str>) -> Self {
        let cpus = cpu.map_or_else(|| format!("0-{}", nr_cpus().saturating_sub(1)), |c| c.to_string());
        let mut command = Command::new("taskset");
        command.args(["-c", &cpus]).args(args);
        if let Some(role) = role {
            command.env(actor::ROLE, role);
        }
        Self::spawn(command.stdin(Stdio::null()))
    }

    /// Starts a command that goes through `taskset`, and waits until it is executed.
    fn spawn(command: &mut Command) -> Self {
        let program = Self(command.spawn().expect("taskset from util-linux"));
        // Our own name: `spawn` comes back just before the launcher's takes its place.
        let own = fs::read_to_string("/proc/thread-self/comm").expect("our name");
        let launchers = ["taskset", "setpriv", "nice", "chrt", own.trim()];
        wait_until(5, "the program to be executed", || {
            fs::read_to_string(format!("/proc/{}/comm", program.pid()))
                .is_ok_and(|comm| !launchers.contains(&comm.trim()))
        });
        program
    }

    /// A busy loop in an ordinary shell.
    pub fn spin() -> Self {
        Self::start(&["sh", "-c", "while :; do :; done"])
    }

    /// A busy loop on whichever CPU.
    pub fn spin_anywhere() -> Self {
        Self::on(None, &["sh", "-c", "while :; do :; done"], None)
    }

    /// A busy loop of an ordinary user.
    pub fn spin_as(uid: u32) -> Self {
        let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
        Self::start(&["setpriv", &ids[0], &ids[1], "--clear-groups", "sh", "-c", "while :; do :; done"])
    }

    /// A program that runs a shell script.
    pub fn shell(script: &str) -> Self {
        Self::start(&["sh", "-c", script])
    }

    /// A program that plays a role of [`actor`].
    pub fn actor(role: &str) -> Self {
        let exe = std::env::current_exe().expect("our own binary");
        Self::on(Some(cpu()), &[exe.to_str().expect("UTF-8")], Some(role))
    }

    /// An actor on whichever CPU.
    pub fn actor_anywhere(role: &str) -> Self {
        let exe = std::env::current_exe().expect("our own binary");
        Self::on(None, &[exe.to_str().expect("UTF-8")], Some(role))
    }

    /// An actor with a pipe to its standard input.
    pub fn actor_with_stdin(role: &str) -> Self {
        let exe = std::env::current_exe().expect("our own binary");
        let mut command = Command::new("taskset");
        command.args(["-c", &cpu().to_string()]).arg(exe).env(actor::ROLE, role);
        Self::spawn(command.stdin(Stdio::piped()))
    }

    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Waits for the end, and gives the status.
    pub fn wait(&mut self, seconds: u64) -> std::process::ExitStatus {
        self.wait_or(seconds, String::new)
    }

    /// As [`Program::wait`]; should it not end, this is told.
    pub fn wait_or(&mut self, seconds: u64, tell: impl Fn() -> String) -> std::process::ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}{}", describe(self.pid()), tell());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Nobody else would.
        let mut pids = vec![self.pid()];
        let mut at = 0;
        while at < pids.len() {
            let below = children(pids[at]);
            pids.extend(below);
            at += 1;
        }
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        pids.iter().for_each(|&pid| kill9(pid));
        let _ = self.0.wait();
    }
}
