//! What a caller may have the daemon write to.
//!
//! A worker keeps its swap file where its group's owner says, and root's worker could keep it anywhere. So the daemon does as the caller first what
//! the worker will do: a thread takes on the caller's rights, finds the directory and makes an unlinked file there.

use std::path::{Path, PathBuf};

use host_sys::rights::{Identity, try_tmpfile};

use crate::errno::{Refusal, Why};
use crate::groups::Caller;

/// Checks that the caller could keep an unlinked file in a directory; gives its path without `.`, `..` and doubled slashes. Links on the
/// way are refused: what they point to could change after the look.
///
/// # Errors
/// EINVAL for a relative path, and what the caller would get: ENOENT, ENOTDIR, EACCES, EROFS, ELOOP for a link, EOPNOTSUPP for a file
/// system without such files.
pub fn check_may_swap_to(caller: &Caller, dir: &Path) -> Result<PathBuf, Refusal> {
    if !dir.is_absolute() {
        return Err(Refusal::new(Why::Malformed, "a tier's directory is an absolute path"));
    }
    let as_whom = Identity { uid: caller.uid, gid: caller.gid, groups: supplementary(caller.tid) };
    try_tmpfile(dir, &as_whom).map_err(|e| {
        let why = e.raw_os_error().map_or(Why::Broken, Why::Other);
        let what = match why {
            Why::Other(libc::ELOOP) => "it leads over a symbolic link".to_owned(),
            _ => e.to_string(),
        };
        Refusal::new(why, format!("the caller cannot swap to {}: {what}", dir.display()))
    })
}

/// Gives the supplementary groups of a thread; none if it is not known.
fn supplementary(tid: i32) -> Vec<u32> {
    if tid <= 0 {
        return Vec::new();
    }
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn errno(uid: u32, dir: &Path) -> i32 {
        check_may_swap_to(&Caller { tid: 0, uid, gid: uid }, dir).map_or_else(|e| e.errno(), |_| 0)
    }

    #[test]
    fn directories_are_tried_with_the_callers_rights() {
        let top = tempfile::tempdir().expect("a directory");
        let me = nix::unistd::geteuid().as_raw();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        };
        let [own, shut, link] = ["own", "shut", "link"].map(|name| top.path().join(name));
        std::fs::create_dir(&own).expect("a directory");
        std::fs::create_dir(&shut).expect("a directory");
        symlink(&own, &link).expect("a link");
        set(top.path(), 0o755);
        set(&own, 0o777);
        set(&shut, 0o700);

        assert_eq!(errno(me, &own), 0);
        assert_eq!(errno(me, &link), libc::ELOOP);
        assert_eq!(errno(me, &top.path().join("none")), libc::ENOENT);
        assert_eq!(errno(me, Path::new("/proc/version")), libc::ENOTDIR);
        assert_eq!(errno(me, Path::new("var/tmp")), libc::EINVAL);
        let same = check_may_swap_to(&Caller { tid: 0, uid: me, gid: me }, &own.join("..//own/."));
        assert_eq!(
            same.map(|dir| dir.file_name().map(ToOwned::to_owned)),
            Ok(own.file_name().map(ToOwned::to_owned))
        );
        if me != 0 {
            eprintln!("skipped: only root takes on others' rights");
            return;
        }
        assert_eq!(errno(64_001, &shut), libc::EACCES);
        // The way to the directory of the test may itself be closed to others.
        let is_open = Path::new("/var/tmp").canonicalize().is_ok_and(|dir| dir == Path::new("/var/tmp"));
        assert!(!is_open || errno(64_001, Path::new("/var/tmp")) == 0);
    }
}
