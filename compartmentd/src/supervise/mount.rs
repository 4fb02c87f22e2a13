//! The place where the tree is mounted: made, and freed of what a dead daemon left there.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// The type of our mounts in `/proc/self/mountinfo`.
pub const SUBTYPE: &str = "compartments";

/// Makes the mount point, or frees it of a mount whose daemon is dead; gives it without links.
///
/// # Errors
/// `AddrInUse` if something is mounted there that is served, and those of `mkdir` and `umount2`.
pub fn prepare(at: &Path) -> io::Result<PathBuf> {
    // The attributes alone may come from the kernel's cache, though nobody serves the mount any more; `statfs` is never cached.
    match fs::metadata(at).and_then(|_| Ok(nix::sys::statfs::statfs(at)?)) {
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            tracing::info!(mount = %at.display(), "replacing the mount of a dead daemon");
            detach(at)?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().mode(0o755).recursive(true).create(at)?;
        }
        Err(e) => return Err(e),
        Ok(_) => {}
    }
    let at = at.canonicalize()?;
    if is_mounted(&at) {
        let why = format!("a living control tree is mounted at {}", at.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    }
    Ok(at)
}

/// Says whether a tree of ours is mounted at a place, served or not.
pub fn is_mounted(at: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().any(|line| is_our_mount(line, at))
}

/// Gives the number of the device that the tree of ours at a place is: that of its connection, too.
pub fn device_of(at: &Path) -> Option<u32> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let line = text.lines().rev().find(|line| is_our_mount(line, at))?;
    line.split(' ').nth(2)?.strip_prefix("0:")?.parse().ok()
}

/// Whether a line of `mountinfo` is a tree of ours at a place: of type `fuse` with our name as its source (mounted by root), or of type
/// `fuse.NAME` (by `fusermount3`).
fn is_our_mount(line: &str, at: &Path) -> bool {
    let Some((left, right)) = line.split_once(" - ") else { return false };
    let mut right = right.split(' ');
    let (Some(kind), Some(source)) = (right.next(), right.next()) else { return false };
    let is_ours = kind.strip_prefix("fuse.") == Some(SUBTYPE) || (kind == "fuse" && source == SUBTYPE);
    is_ours && left.split(' ').nth(4) == Some(&escaped(at))
}

/// Writes a path as `mountinfo` does.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().chars().fold(String::new(), |mut out, c| {
        match c {
            ' ' | '\t' | '\n' | '\\' => out.push_str(&format!("\\{:03o}", u32::from(c))),
            _ => out.push(c),
        }
        out
    })
}

/// Takes a mount out of the way, whoever still uses it.
///
/// # Errors
/// Those of `umount2`.
pub fn detach(at: &Path) -> io::Result<()> {
    match umount2(at, MntFlags::MNT_DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => {
            let done = Command::new("fusermount3")
                .args(["-u", "-z", "--"])
                .arg(at)
                .stderr(Stdio::null())
                .status()?;
            if done.success() { Ok(()) } else { Err(Errno::EPERM.into()) }
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_ours_are_told_from_others() {
        let at = Path::new("/run/a b");
        for (ours, line) in [
            (true, "36 25 0:32 / /run/a\\040b rw,nosuid shared:7 - fuse compartments rw,user_id=0"),
            (true, "36 25 0:32 / /run/a\\040b rw - fuse.compartments compartments rw"),
            (false, "36 25 0:32 / /run/a rw - fuse compartments rw"),
            (false, "36 25 0:32 / /run/a\\040b rw - fuse sshfs rw"),
            (false, "36 25 0:32 / /run/a\\040b rw - tmpfs compartments rw"),
            (false, ""),
        ] {
            assert_eq!(is_our_mount(line, at), ours, "{line}");
        }
    }
}
