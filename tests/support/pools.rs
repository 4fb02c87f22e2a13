//! The memory half of a daemon's tree.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Daemon, Program, can_run, comm, errno, need};

/// Says whether the memory half can run here.
pub fn can_run_memory() -> bool {
    can_run()
        && need(
            "userfaultfd with UFFDIO_MOVE",
            host_sys::uffd::Userfaultfd::probe().is_ok_and(|u| u.has_move),
        )
}

/// The memory half of a daemon's tree.
pub struct Pools {
    pub daemon: Daemon,
}

impl Pools {
    pub fn start() -> Self {
        Self { daemon: Daemon::start() }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.daemon.path("mem-groups").join(path)
    }

    pub fn mkdir(&self, name: &str) {
        fs::create_dir(self.path(name)).unwrap_or_else(|e| panic!("mkdir {name}: {e}"));
    }

    pub fn rmdir(&self, name: &str) -> io::Result<()> {
        fs::remove_dir(self.path(name))
    }

    /// A group with a limit.
    pub fn pool(&self, name: &str, max: &str) {
        self.mkdir(name);
        self.write(&format!("{name}/memory.max"), max).expect("a limit");
    }

    pub fn read(&self, path: &str) -> String {
        self.daemon.read(&format!("mem-groups/{path}"))
    }

    pub fn number(&self, path: &str) -> u64 {
        self.read(path).trim().parse().unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub fn key(&self, path: &str, key: &str) -> u64 {
        self.daemon.number(&format!("mem-groups/{path}"), key) as u64
    }

    pub fn write(&self, path: &str, value: &str) -> io::Result<()> {
        fs::write(self.path(path), value)
    }

    pub fn rename(&self, from: &str, to: &str, pid: i32) -> io::Result<()> {
        fs::rename(self.path(&format!("{from}/{pid}")), self.path(&format!("{to}/{pid}")))
    }

    pub fn members(&self, group: &str) -> Vec<i32> {
        let mut pids: Vec<i32> =
            names(&self.path(group)).iter().filter_map(|name| name.parse().ok()).collect();
        pids.sort_unstable();
        pids
    }

    /// All that a refusal could have changed in a group.
    pub fn settings(&self, group: &str) -> Vec<String> {
        let files = ["vm", "memory.max", "memory.swap.max", "memory.swap.tiers"];
        let mut all: Vec<String> = files.iter().map(|file| self.read(&format!("{group}/{file}"))).collect();
        all.push(format!("{:?}", self.members(group)));
        all
    }

    /// Checks that something is refused with this errno and a line in `error_log`.
    pub fn refused(&self, what: &str, expected: i32, name: &str, result: io::Result<()>) {
        assert_eq!(errno(result), expected, "{what}");
        let log = self.daemon.read("error_log");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains(&format!(" errno={name} reason=")), "{what}: {last}");
    }
}

/// The names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// A program that checks its own pages ([`super::pages`]): so many threads with so many MiB each.
pub fn checker(ms: u64, mib: u64, threads: u64, kinds: &str) -> Program {
    Program::actor_anywhere(&format!("pages {ms} {mib} {threads} {kinds}"))
}

/// The agents inside of checkers of this test binary.
pub fn agents() -> Vec<i32> {
    let own = std::env::current_exe().expect("our own binary");
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|&pid: &i32| {
        comm(pid).as_deref() == Some("comp-mm")
            && fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == own)
    })
    .collect()
}
