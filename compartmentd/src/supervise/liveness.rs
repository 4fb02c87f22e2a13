//! Whether keeper and worker of a group live.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use host_sys::process;

/// How long a living keeper may take to start another worker.
const RESTART_TIMEOUT: Duration = Duration::from_secs(10);
/// The hidden subcommands that run keepers.
const KEEPER_ARGS: [&str; 2] = [guest_sched::host::client::KEEPER_ARG, guest_mm::uffd::client::KEEPER_ARG];
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a keeper may be stopped, or leave members parked, when its worker is dead.
const IDLENESS: Duration = Duration::from_millis(500);

/// Says whether `pid` is the living keeper or worker of the group in `dir`: both have that directory among their arguments, so
/// that a number that belongs to somebody else by now is not taken for them.
pub fn is_alive(pid: i32, dir: &Path) -> bool {
    if pid <= 0 || process::stat(pid).map_or(true, |stat| stat.is_dead()) {
        return false;
    }
    // Anybody may give their process such arguments. (The kernel gives it to root where the binary has capabilities.)
    let me = nix::unistd::geteuid().as_raw();
    if !std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|m| [me, 0].contains(&m.uid())) {
        return false;
    }
    let args = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    args.split(|b| *b == 0).any(|arg| arg == dir.as_os_str().as_bytes())
}

/// Lists the living keepers and workers of the group in `dir`, by looking at every process. A worker whose keeper has died starts
/// another one and ends: for a moment the table names neither.
pub fn processes_of(dir: &Path) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_keeper(*pid) && is_alive(*pid, dir)).collect()
}

/// Whether the process was started as a keeper (workers are forked from keepers).
fn is_keeper(pid: i32) -> bool {
    let args = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let word = args.split(|b| *b == 0).nth(1);
    KEEPER_ARGS.iter().any(|arg| word == Some(arg.as_bytes()))
}

/// Waits until the group in `dir` has a living worker, started by its keeper if need be. `pids` reads keeper and worker from its table,
/// `has_parked` whether anybody is still held.
///
/// # Errors
/// ESRCH as soon as keeper and worker are both dead; `TimedOut`, soon if the keeper does nothing.
pub fn wait_for_worker(
    dir: &Path,
    pids: impl Fn() -> (i32, i32),
    has_parked: impl Fn() -> bool,
) -> io::Result<()> {
    let deadline = Instant::now() + RESTART_TIMEOUT;
    let mut busy_at = Instant::now();
    loop {
        let (keeper, worker) = pids();
        if is_alive(worker, dir) {
            return Ok(());
        }
        if !is_alive(keeper, dir) && processes_of(dir).is_empty() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let is_stopped = process::stat(keeper).is_ok_and(|stat| matches!(stat.state, b'T' | b't'));
        if !is_stopped && !has_parked() {
            busy_at = Instant::now();
        }
        if Instant::now() >= deadline || busy_at.elapsed() >= IDLENESS {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
