//! The processes of the host, as far as the controller asks about them.

use std::os::unix::fs::MetadataExt;

use host_sys::process;

/// What is known of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Clock ticks after boot: with the number it names one process for ever.
    pub start_time: u64,
    /// Its parent.
    pub ppid: i32,
    /// Whether it is a thread of the kernel.
    pub is_kernel_thread: bool,
}

/// Whose a process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Creds {
    /// Real user.
    pub ruid: u32,
    /// Effective user.
    pub euid: u32,
    /// Saved user.
    pub suid: u32,
    /// Effective group.
    pub gid: u32,
    /// Whether its user may trace it.
    pub is_dumpable: bool,
}

/// The processes of a host: the real one, or one made up for tests.
pub trait Host: Send + Sync {
    /// Finds a process that has not ended; not a thread of one.
    fn process(&self, pid: i32) -> Option<Process>;
    /// Tells whose a process is.
    fn creds(&self, pid: i32) -> Option<Creds>;
    /// Gives the process of a thread.
    fn thread_group(&self, tid: i32) -> Option<i32>;
    /// Lists all processes.
    fn pids(&self) -> Vec<i32>;
    /// Gives how far a process's nice value may be lowered: 20 minus it is at most this (`RLIMIT_NICE`).
    fn nice_limit(&self, pid: i32) -> i64;
}

/// The real host, by `/proc`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcFs;

impl Host for ProcFs {
    fn process(&self, pid: i32) -> Option<Process> {
        // The first thread may have ended before the others, or may just be replaced by another one that executes a program.
        let has_others = || process::threads(pid).is_ok_and(|tids| tids.len() > 1);
        let stat = process::stat(pid).ok().filter(|stat| !stat.is_dead() || has_others())?;
        // /proc/TID exists for every thread, and is not listed.
        (process::thread_group(pid).ok()? == pid).then_some(Process {
            pid,
            start_time: stat.start_time,
            ppid: stat.ppid,
            is_kernel_thread: stat.is_kernel_thread(),
        })
    }

    fn creds(&self, pid: i32) -> Option<Creds> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let owner = std::fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        let (uids, gids) = (ids(&status, "Uid:")?, ids(&status, "Gid:")?);
        // The kernel gives the directory to root if the process is not dumpable.
        Some(Creds {
            ruid: uids[0],
            euid: uids[1],
            suid: uids[2],
            gid: gids[1],
            is_dumpable: owner == uids[1],
        })
    }

    fn thread_group(&self, tid: i32) -> Option<i32> {
        process::thread_group(tid).ok()
    }

    fn pids(&self) -> Vec<i32> {
        let Ok(dir) = std::fs::read_dir("/proc") else { return Vec::new() };
        dir.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
    }

    fn nice_limit(&self, pid: i32) -> i64 {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max nice priority"));
        match line.and_then(|line| line.split_whitespace().next()) {
            Some("unlimited") => i64::MAX,
            Some(number) => number.parse().unwrap_or(0),
            None => 0,
        }
    }
}

/// Real, effective and saved id of a line of `/proc/PID/status`.
fn ids(status: &str, key: &str) -> Option<[u32; 3]> {
    let mut words = status.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace();
    let mut next = || words.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_found_with_its_user() {
        let me = std::process::id() as i32;

        assert_eq!(ProcFs.process(me).map(|p| p.pid), Some(me));
        assert_eq!(ProcFs.creds(me).map(|c| c.ruid), Some(nix::unistd::getuid().as_raw()));
        assert!(ProcFs.pids().contains(&me));
        assert!(ProcFs.process(0x3fff_ffff).is_none());
    }

    #[test]
    fn ids_are_real_effective_saved() {
        assert_eq!(ids("Name:\tx\nUid:\t1\t2\t3\t4\n", "Uid:"), Some([1, 2, 3]));
        assert_eq!(ids("Uid:\t1\n", "Uid:"), None);
    }
}
