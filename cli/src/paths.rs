//! Where embedded daemons live: a place that is found again by `recover` if everything of ours was killed.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};

/// Gives the directories where the caller's embedded daemons may live, the one for new daemons first.
fn bases() -> Vec<PathBuf> {
    let user = geteuid();
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    // After `sudo -E` it is another user's.
    let own = runtime_dir
        .filter(|dir| dir.is_absolute() && fs::metadata(dir).is_ok_and(|m| m.uid() == user.as_raw()));
    candidates(user, own, &std::env::temp_dir())
}

fn candidates(user: Uid, runtime_dir: Option<PathBuf>, temp_dir: &Path) -> Vec<PathBuf> {
    const NAME: &str = "compartments-embedded";
    let last =
        if user.is_root() { Path::new("/run").join(NAME) } else { temp_dir.join(format!("{NAME}-{user}")) };
    runtime_dir.map(|dir| dir.join(NAME)).into_iter().chain([last]).collect()
}

/// Makes the directory for new embedded daemons, for the caller alone.
///
/// # Errors
/// Those of `mkdir`; `PermissionDenied` if somebody else made it: it may lie in a directory for all.
pub(crate) fn make_embedded_base() -> io::Result<PathBuf> {
    let dir = bases().swap_remove(0);
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let meta = fs::symlink_metadata(&dir)?;
    if !is_safe(&meta) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(dir)
}

/// Whether it is ours, and nobody else can put anything there.
fn is_safe(meta: &fs::Metadata) -> bool {
    meta.is_dir() && meta.uid() == geteuid().as_raw() && meta.mode() & 0o022 == 0
}

/// Lists the directories of embedded daemons that are there, living or left over.
pub(crate) fn embedded_dirs() -> Vec<PathBuf> {
    let bases = bases().into_iter().filter(|dir| fs::symlink_metadata(dir).is_ok_and(|meta| is_safe(&meta)));
    let entries = bases.filter_map(|dir| fs::read_dir(dir).ok()).flatten();
    let mut dirs: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    dirs.sort();
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_the_users_own() {
        let user = Uid::from_raw(7);
        let runtime_dir = || Some(PathBuf::from("/run/user/7"));

        assert_eq!(
            candidates(user, runtime_dir(), Path::new("/tmp"))[0],
            Path::new("/run/user/7/compartments-embedded")
        );
        assert_eq!(candidates(user, None, Path::new("/tmp")), [Path::new("/tmp/compartments-embedded-7")]);
        assert_eq!(
            candidates(Uid::from_raw(0), None, Path::new("/tmp")),
            [Path::new("/run/compartments-embedded")]
        );
    }
}
