//! Resuming what was left parked when keeper and worker of a group died together.

use std::io;
use std::path::{Path, PathBuf};

use super::liveness::processes_of;
use super::state::{StateRoot, group_dirs};

/// Why nothing could be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A daemon uses the state directory: it does that itself.
    #[error("a daemon uses {0} and recovers its groups itself")]
    InUse(PathBuf),
    /// The state directory cannot be used.
    #[error("open the state directory {path}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Processes that were parked and are not any more.
    pub resumed: Vec<i32>,
    /// State directories of dead groups, removed.
    pub removed: Vec<PathBuf>,
    /// State directories of groups that run on by themselves, left alone.
    pub running: Vec<PathBuf>,
    /// State directories that could not be handled, and why.
    pub failed: Vec<(PathBuf, String)>,
}

/// Resumes the members of all dead groups in `state_root` and removes what is left of those groups. Groups whose keeper or
/// worker lives are left alone.
///
/// # Errors
/// [`RecoverError`]; what goes wrong with a single group is in [`Recovered::failed`].
pub fn recover(state_root: &Path) -> Result<Recovered, RecoverError> {
    let mut done = Recovered::default();
    if !state_root.exists() {
        return Ok(done);
    }
    let open_failed = |source| RecoverError::Open { path: state_root.to_owned(), source };
    let root = StateRoot::open(state_root).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => RecoverError::InUse(state_root.to_owned()),
        _ => open_failed(source),
    })?;
    for dir in [group_dirs(root.path()), group_dirs(root.mem().map_err(open_failed)?.path())].concat() {
        if !processes_of(&dir).is_empty() {
            done.running.push(dir);
            continue;
        }
        match recover_group(&dir).and_then(|pids| std::fs::remove_dir_all(&dir).map(|()| pids)) {
            Ok(pids) => {
                done.resumed.extend(pids);
                done.removed.push(dir);
            }
            Err(e) => done.failed.push((dir, e.to_string())),
        }
    }
    Ok(done)
}

/// Resumes whatever the table in `dir` says is parked; nothing is by a mem_group. Keeper and worker of that group must be dead.
///
/// # Errors
/// If something could not be undone; the rest was. A group that never got as far as a table has nothing parked.
pub fn recover_group(dir: &Path) -> io::Result<Vec<i32>> {
    if !dir.join(guest_sched::host::table::TABLE).exists() {
        return Ok(Vec::new());
    }
    let report = guest_sched::host::recover(dir)?;
    let mut pids = [report.moved, report.continued].concat();
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_groups_are_removed_and_a_used_root_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        assert_eq!(recover(&path).expect("nothing to do"), Recovered::default());
        let root = StateRoot::open(&path).expect("free");
        super::super::StateDir::create(&root.new_dir()).expect("a directory");
        super::super::StateDir::create(&root.mem().expect("a directory").new_dir()).expect("a directory");
        assert!(matches!(recover(&path), Err(RecoverError::InUse(_))));
        drop(root);

        let done = recover(&path).expect("recovered");

        assert_eq!(done.removed.len(), 2);
        assert!(group_dirs(&path).is_empty());
    }
}
