//! State directories: one for all, locked by its daemon, and in it one per group.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::groups::Holder;

const LOCK: &str = "lock";
const META: &str = "meta.json";
const RULES: &str = "rules";
const PREFIX: &str = "g";
/// The directory in it of the mem_groups.
const MEM: &str = "mem";
/// A socket's path has at most 107 bytes; in a group's directory it takes `/mem/gNNNNNNN/worker.sock`.
const ROOT_MAX: usize = 107 - 28;

/// The directory of all groups of one daemon, locked for as long as the value lives.
#[derive(Debug)]
pub struct StateRoot {
    path: PathBuf,
    next: AtomicU64,
    _lock: Option<Flock<File>>,
}

impl StateRoot {
    /// Makes or opens it, for us alone.
    ///
    /// # Errors
    /// `WouldBlock` if another daemon uses it, `PermissionDenied` if it is somebody else's, `InvalidInput` if its path is
    /// too long for the sockets in it.
    pub fn open(path: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).recursive(true).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let path = path.canonicalize()?;
        if path.as_os_str().len() > ROOT_MAX {
            let why = format!("the state directory's path has more than {ROOT_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let meta = fs::symlink_metadata(&path)?;
        if meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
            let why = format!("{} is not for us alone (mode 0700)", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let file = File::options().create(true).truncate(false).write(true).open(path.join(LOCK))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
            Errno::EWOULDBLOCK => io::Error::new(io::ErrorKind::WouldBlock, "another daemon uses it"),
            e => e.into(),
        })?;
        Ok(Self::at(path, Some(lock)))
    }

    /// Makes or opens the directory of the mem_groups in it, which is ours for as long as this one is.
    ///
    /// # Errors
    /// Those of `mkdir`.
    pub fn mem(&self) -> io::Result<Self> {
        let path = self.path.join(MEM);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(Self::at(path, None)),
        }
    }

    fn at(path: PathBuf, lock: Option<Flock<File>>) -> Self {
        let last = group_dirs(&path).iter().filter_map(|dir| number_of(dir)).max().unwrap_or(0);
        Self { path, next: AtomicU64::new(last + 1), _lock: lock }
    }

    /// Gives its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the text of the rules.
    ///
    /// # Errors
    /// Those of writing; then the old one is still there.
    pub fn save_rules(&self, text: &str) -> io::Result<()> {
        let tmp = self.path.join(format!("{RULES}.new"));
        fs::write(&tmp, text)?;
        fs::rename(tmp, self.path.join(RULES))
    }

    /// Reads the text of the rules; empty if there are none.
    pub fn load_rules(&self) -> String {
        fs::read_to_string(self.path.join(RULES)).unwrap_or_default()
    }

    /// Gives a path for a new group's directory.
    pub fn new_dir(&self) -> PathBuf {
        self.path.join(format!("{PREFIX}{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// Lists the groups' directories, oldest first.
    pub fn dirs(&self) -> Vec<PathBuf> {
        group_dirs(&self.path)
    }
}

fn number_of(dir: &Path) -> Option<u64> {
    dir.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()
}

/// Lists the groups' directories in a state directory, oldest first.
pub(super) fn group_dirs(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut dirs: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|dir| number_of(dir).is_some()).collect();
    dirs.sort_by_key(|dir| number_of(dir));
    dirs
}

/// What a later daemon has to know of a group, beside its configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Meta {
    /// Owner.
    pub uid: u32,
    /// Owner's group.
    pub gid: u32,
    /// The process that holds it.
    pub holder: Option<Holder>,
    /// The name of the group it is nested in, and the PID it has there.
    pub nested: Option<(String, i32)>,
}

/// The state directory of a group.
#[derive(Clone, Copy, Debug)]
pub struct StateDir;

impl StateDir {
    /// Makes it.
    ///
    /// # Errors
    /// Those of `mkdir`.
    pub fn create(dir: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(dir)
    }

    /// Says whether a daemon died while it made this directory: nothing is kept in it and nobody lives by it.
    pub fn is_stillborn(dir: &Path) -> bool {
        !dir.join(META).exists() && super::liveness::processes_of(dir).is_empty()
    }

    /// Writes what is to be kept.
    ///
    /// # Errors
    /// Those of writing; then the old one is still there.
    pub fn save(dir: &Path, meta: &Meta) -> io::Result<()> {
        let tmp = dir.join(format!("{META}.new"));
        fs::write(&tmp, serde_json::to_vec_pretty(meta)?)?;
        fs::rename(tmp, dir.join(META))
    }

    /// Reads what was kept.
    ///
    /// # Errors
    /// Those of reading; `InvalidData`.
    pub fn load(dir: &Path) -> io::Result<Meta> {
        Ok(serde_json::from_slice(&fs::read(dir.join(META))?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_used_by_one_daemon_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = StateRoot::open(&dir.path().join("state")).expect("free");

        let second = StateRoot::open(root.path());

        assert_eq!(second.map(drop).map_err(|e| e.kind()), Err(io::ErrorKind::WouldBlock));
    }

    #[test]
    fn root_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        DirBuilder::new().mode(0o755).create(&path).expect("a directory");

        assert!(StateRoot::open(&path).is_err());
    }

    #[test]
    fn meta_saved_is_loaded_and_dirs_are_listed_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = StateRoot::open(&dir.path().join("state")).expect("free");
        let meta = Meta { uid: 7, gid: 8, holder: None, nested: Some(("a".into(), 5)) };
        for _ in 0..11 {
            StateDir::create(&root.new_dir()).expect("a directory");
        }

        let dirs = root.dirs();
        StateDir::save(&dirs[10], &meta).expect("written");

        assert!(dirs[10].ends_with("g11"));
        assert_eq!(StateDir::load(&dirs[10]).expect("read"), meta);
    }
}
