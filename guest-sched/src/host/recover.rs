//! Making good after everything of a group has died at once: whoever is still parked is resumed, and its cgroups are removed.

use std::io;
use std::path::Path;
use std::time::Duration;

use host_sys::{Pidfd, process};

use super::cgroup;
use super::lease::Lease;
use super::table::{Parked, Table};
use super::worker;

/// What was made good.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoverReport {
    /// Processes that were in cgroups of the group, and are where they came from again.
    pub moved: Vec<i32>,
    /// Processes that were stopped by the group, and go on.
    pub continued: Vec<i32>,
}

/// How long a worker that was killed may take to be gone.
const DYING: Duration = Duration::from_secs(1);

/// Resumes whoever the group in `state_dir` has left parked, and undoes its cgroups. To be called when neither its worker nor its keeper
/// lives; does nothing to a group without remains.
///
/// # Errors
/// `WouldBlock` if one of them lives all the same. If something could not be undone; the rest was.
pub fn recover(state_dir: &Path) -> io::Result<RecoverReport> {
    let _lease = Lease::take(state_dir, DYING)?;
    let mut report = RecoverReport::default();
    if let Ok(table) = Table::open(state_dir) {
        table.for_each_parked(|_, pid, start_time, parked| {
            if parked == Parked::Stop
                && let Ok(pidfd) = Pidfd::open(pid)
                && process::stat(pid).is_ok_and(|s| s.start_time == start_time)
                && pidfd.signal(libc::SIGCONT).is_ok()
            {
                report.continued.push(pid);
            }
        });
    }
    let tag = worker::tag(state_dir);
    let mut result = Ok(());
    for mount in [cgroup::v2_mount(), cgroup::v1_cpu_mount()].into_iter().flatten() {
        for prefix in [format!("{}{tag}.", cgroup::PREFIX), format!("{}{tag}", cgroup::PREFIX)] {
            for dir in cgroup::find_ours(&mount, &prefix) {
                match cgroup::undo(&dir) {
                    Ok(pids) => report.moved.extend(pids),
                    Err(e) => result = Err(e),
                }
            }
        }
    }
    report.moved.sort_unstable();
    report.moved.dedup();
    result.map(|()| report)
}
