//! Who asks, and what they may do. The daemon acts with its own rights, so it looks at the caller's first.

use super::host::{Creds, Host};
use crate::errno::{Refusal, Why, no_process};

/// Who makes a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The calling *thread*, as FUSE tells it; 0 for the daemon itself or somebody in a PID namespace that it does not see.
    pub tid: i32,
    /// The user, by the file-system user id.
    pub uid: u32,
    /// The group, likewise.
    pub gid: u32,
}

impl Caller {
    /// The daemon itself: may all.
    pub const DAEMON: Self = Self { tid: 0, uid: 0, gid: 0 };

    /// Whether everything is allowed.
    pub const fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether the caller owns a thing of user `uid`, or may act as if.
    pub const fn owns(&self, uid: u32) -> bool {
        self.is_root() || self.uid == uid
    }

    /// Gives the calling process; 0 if it is not known.
    pub fn pid(&self, host: &dyn Host) -> i32 {
        if self.tid > 0 { host.thread_group(self.tid).unwrap_or(0) } else { 0 }
    }

    /// Checks that the caller may move and tune a process: all its user ids are the caller's, and it is one that
    /// the caller could trace (it has not executed a program with other rights).
    ///
    /// # Errors
    /// ESRCH, EPERM.
    pub fn check_controls(&self, host: &dyn Host, pid: i32) -> Result<(), Refusal> {
        if self.is_root() {
            return Ok(());
        }
        let creds = host.creds(pid).ok_or_else(|| no_process(pid))?;
        if creds.controller() == Some(self.uid) {
            Ok(())
        } else {
            Err(Refusal::new(Why::NotAllowed, format!("process {pid} is not wholly the caller's")))
        }
    }

    /// Checks that the caller may send a process a signal, as `kill(2)` would.
    ///
    /// # Errors
    /// ESRCH, EPERM.
    pub fn check_may_signal(&self, host: &dyn Host, pid: i32) -> Result<(), Refusal> {
        let creds = host.creds(pid).ok_or_else(|| no_process(pid))?;
        if self.is_root() || self.uid == creds.ruid || self.uid == creds.suid {
            Ok(())
        } else {
            Err(Refusal::new(Why::NotAllowed, format!("the caller may not signal process {pid}")))
        }
    }

    /// Checks that the caller may give a host process a nice value, as `setpriority(2)` would: own processes only, and
    /// lower values only as far as the process's `RLIMIT_NICE` goes.
    ///
    /// # Errors
    /// ESRCH, EPERM, EACCES.
    pub fn check_may_renice(&self, host: &dyn Host, pid: i32, old: i8, new: i8) -> Result<(), Refusal> {
        if self.is_root() {
            return Ok(());
        }
        let creds = host.creds(pid).ok_or_else(|| no_process(pid))?;
        if self.uid != creds.euid && self.uid != creds.ruid {
            return Err(Refusal::new(Why::NotAllowed, format!("process {pid} is not the caller's")));
        }
        if new < old && 20 - i64::from(new) > host.nice_limit(pid) {
            return Err(Refusal::new(
                Why::Other(libc::EACCES),
                "only root favours a process beyond its RLIMIT_NICE",
            ));
        }
        Ok(())
    }
}

impl Creds {
    /// Gives the one user who may control the process; `None` if only root may.
    pub fn controller(&self) -> Option<u32> {
        let is_one = self.ruid == self.euid && self.euid == self.suid;
        (is_one && self.is_dumpable).then_some(self.ruid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::fake::FakeHost;

    fn alice() -> Caller {
        Caller { tid: 1, uid: 1000, gid: 1000 }
    }

    fn errno(result: Result<(), Refusal>) -> i32 {
        result.err().map_or(0, |e| e.errno())
    }

    #[test]
    fn own_process_is_controlled_and_others_are_not() {
        let host = FakeHost::default();
        host.add(10, 1000);
        host.add(11, 1001);

        assert_eq!(errno(alice().check_controls(&host, 10)), 0);
        assert_eq!(errno(alice().check_controls(&host, 11)), libc::EPERM);
        assert_eq!(errno(alice().check_controls(&host, 12)), libc::ESRCH);
        assert_eq!(errno(Caller::DAEMON.check_controls(&host, 11)), 0);
    }

    #[test]
    fn setuid_and_undumpable_processes_are_not_controlled() {
        let host = FakeHost::default();
        host.add(10, 1000);
        host.set_creds(10, Creds { ruid: 1000, euid: 0, suid: 0, gid: 1000, is_dumpable: false });
        host.add(11, 1000);
        host.set_creds(11, Creds { ruid: 1000, euid: 1000, suid: 1000, gid: 1000, is_dumpable: false });
        host.add(12, 1000);
        host.set_creds(12, Creds { ruid: 1000, euid: 1000, suid: 0, gid: 1000, is_dumpable: true });

        for pid in [10, 11, 12] {
            assert_eq!(errno(alice().check_controls(&host, pid)), libc::EPERM, "{pid}");
        }
        // As kill(2): the real user id is enough.
        assert_eq!(errno(alice().check_may_signal(&host, 10)), 0);
    }

    #[test]
    fn renice_down_takes_the_limit() {
        let host = FakeHost::default();
        host.add(10, 1000);

        assert_eq!(errno(alice().check_may_renice(&host, 10, 0, 5)), 0);
        assert_eq!(errno(alice().check_may_renice(&host, 10, 5, 0)), libc::EACCES);
        assert_eq!(errno(Caller::DAEMON.check_may_renice(&host, 10, 5, -20)), 0);
    }
}
