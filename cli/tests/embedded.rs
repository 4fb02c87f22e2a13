//! Verbs that bring their own daemon, on real processes. Needs FUSE and perf events; skipped with the reason where they are missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One at a time: the tests look at what is left in a directory that they share, and at the CPU.
static TURN: Mutex<()> = Mutex::new(());

fn compartment() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_compartment"));
    command.env_remove("COMPARTMENTS_MOUNT").env("XDG_RUNTIME_DIR", runtime_dir());
    command
}

fn run(args: &[&str]) -> Output {
    compartment().arg("run").args(args).output().expect("our own binary")
}

/// Gives the turn, or nothing where there can be no daemon.
fn turn() -> Option<MutexGuard<'static, ()>> {
    let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // What an earlier test that failed has left.
    let _ = compartment().arg("recover").output();
    let output = run(&["--", "true"]);
    if output.status.code() == Some(3) {
        println!("skipped: no daemon can be had here: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(turn)
}

/// A runtime directory of our own, so that no other daemon on this machine confuses us.
fn runtime_dir() -> &'static Path {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(dir).expect("cargo's own directory");
    dir
}

fn base() -> PathBuf {
    runtime_dir().join("compartments-embedded")
}

fn places() -> Vec<PathBuf> {
    fs::read_dir(base()).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Waits until `check` gives something.
fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A `run` in the background, killed when dropped.
struct Background(Child);

impl Background {
    fn start(args: &[&str]) -> Self {
        let mut command = compartment();
        command.arg("run").args(args).stdout(Stdio::null());
        Self(command.spawn().expect("our own binary"))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The members of the group with that name, under whichever embedded daemon it is.
fn members(group: &str) -> Vec<i32> {
    let dirs = places().into_iter().map(|place| place.join("tree/sched-groups").join(group));
    let names = dirs.filter_map(|dir| fs::read_dir(dir).ok()).flatten();
    names.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn run_passes_the_commands_status_and_output_on() {
    let Some(_turn) = turn() else { return };

    let output = run(&["--cpu", "0.5", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(run(&["--", "sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    assert_eq!(run(&["--", "/nonexistent"]).status.code(), Some(127));
    assert_eq!(places(), Vec::<PathBuf>::new());
}

#[test]
fn run_puts_the_command_into_its_group_before_it_starts() {
    let Some(_turn) = turn() else { return };
    let script = format!("echo $$; ls -d {}/*/tree/sched-groups/inside/$$", base().display());

    let output = run(&["--name", "inside", "--", "sh", "-c", &script]);

    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (pid, dir) = text.trim().split_once('\n').unwrap_or_else(|| panic!("{output:?}"));
    assert!(dir.ends_with(&format!("/inside/{pid}")), "{text}");
}

#[test]
fn run_waits_for_what_the_command_leaves_behind() {
    let Some(_turn) = turn() else { return };
    let started = Instant::now();

    let output = run(&["--", "sh", "-c", "sleep 1 >/dev/null 2>&1 & exit 3"]);

    assert_eq!(output.status.code(), Some(3));
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(places(), Vec::<PathBuf>::new());
}

#[test]
fn run_asked_to_end_ends_its_command_and_leaves_nothing() {
    let Some(_turn) = turn() else { return };
    // What is ignored here (by `nohup`, by a CI) is ignored by what we start.
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        host_sys::process::set_handler(signal, nix::sys::signal::SigHandler::SigDfl).expect("the default");
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut run = Background::start(&["--name", "ended", "--", "sleep", "1000"]);
        let pid = eventually("the member", || members("ended").first().copied());

        kill(run.pid(), signal).expect("our own child");

        let status = run.0.wait().expect("our own child");
        assert_eq!(status.code(), Some(128 + signal as i32));
        assert!(!is_alive(pid));
        assert_eq!(places(), Vec::<PathBuf>::new());
    }
}

#[test]
fn run_killed_leaves_its_command_running_and_the_daemon_ends() {
    let Some(_turn) = turn() else { return };
    let mut run = Background::start(&["--name", "orphan", "--", "sh", "-c", "while :; do :; done"]);
    let pid = eventually("the member", || members("orphan").first().copied());

    run.0.kill().expect("our own child");
    run.0.wait().expect("our own child");

    eventually("the end of the daemon", || members("orphan").is_empty().then_some(()));
    let cpu_time = || {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    let before = cpu_time();
    eventually("the command running on", || (cpu_time() > before + 50_000_000).then_some(()));
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    let tidy =
        || compartment().arg("recover").output().is_ok_and(|o| o.status.success()) && places().is_empty();
    eventually("what is left being removed", || tidy().then_some(()));
}

#[test]
fn demo_gives_a_verdict_and_leaves_nothing() {
    let Some(_turn) = turn() else { return };

    let output = compartment().args(["demo", "--seconds", "2", "--json"]).output().expect("our own binary");

    // The verdict itself is for a quiet machine; here it counts that there is one.
    let verdict: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(verdict["shares"].as_array().map(Vec::len), Some(3));
    assert_eq!(verdict["pass"].as_bool(), Some(output.status.success()));
    assert_eq!(places(), Vec::<PathBuf>::new());
}
