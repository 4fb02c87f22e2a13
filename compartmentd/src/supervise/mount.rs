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
    match fs::metadata(at) {
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
    let wanted = at.to_string_lossy().replace(' ', "\\040");
    text.lines().any(|line| {
        let is_ours =
            line.split_once(" - ").is_some_and(|(_, r)| r.split(' ').next() == Some("fuse.compartments"));
        is_ours && line.split(' ').nth(4) == Some(&wanted)
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
