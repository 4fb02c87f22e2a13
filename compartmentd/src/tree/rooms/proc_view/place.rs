//! Where the host's `/proc` is found by whoever looks at ours.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

/// Gives the path for a tree that is mounted at `mount`: a directory beside it, in which `proc` is a link to `/proc`. An entered mount
/// namespace has the host's `/proc` itself there.
pub fn beside(mount: &Path) -> PathBuf {
    let mut dir = mount.as_os_str().to_owned();
    dir.push(".host");
    PathBuf::from(dir).join("proc")
}

/// Makes it, if it is not there. It stays when the daemon ends: shells that were entered have something mounted there.
///
/// # Errors
/// Those of `mkdir` and `symlink`; `AlreadyExists` if something else is there.
pub fn make(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        match DirBuilder::new().mode(0o755).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    match symlink("/proc", path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && fs::read_link(path)? == Path::new("/proc") => {
            Ok(())
        }
        other => other,
    }
}

/// Whether the kernel's own is mounted there. In an entered shell a daemon would show what another one shows, to nobody else.
pub fn is_the_hosts(proc: &Path) -> bool {
    use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
    statfs(proc).is_ok_and(|fs| fs.filesystem_type() == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_made_once_and_nothing_else_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = beside(&dir.path().join("tree"));

        assert_eq!(path, dir.path().join("tree.host/proc"));
        assert!(make(&path).is_ok() && make(&path).is_ok());
        assert!(is_the_hosts(&path) && !is_the_hosts(dir.path()));

        fs::remove_file(&path).expect("a link");
        fs::write(&path, "").expect("a file");
        assert!(make(&path).is_err());
    }
}
