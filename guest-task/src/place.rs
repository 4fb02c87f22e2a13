//! Where the daemon's socket is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The variable that names the socket.
pub const SOCKET_VARIABLE: &str = "COMPARTMENTS_SOCKET";
/// The socket of the machine's daemon.
pub const SYSTEM_SOCKET: &str = "/run/compartments.sock";

/// Gives the socket of the daemon that has mounted its tree at `mount`: beside it, with `.sock` appended.
pub fn socket_beside(mount: &Path) -> PathBuf {
    let mut path = mount.as_os_str().to_owned();
    path.push(".sock");
    path.into()
}

/// Gives the places where the socket may be, best first: the one asked for; else the one that the variable names; else the user's own and
/// the machine's.
pub(crate) fn candidates(asked: Option<&Path>) -> Vec<PathBuf> {
    let is_root = nix::unistd::geteuid().is_root();
    of(asked, std::env::var_os(SOCKET_VARIABLE), std::env::var_os("XDG_RUNTIME_DIR"), is_root)
}

fn of(
    asked: Option<&Path>,
    variable: Option<OsString>,
    runtime_dir: Option<OsString>,
    is_root: bool,
) -> Vec<PathBuf> {
    let named = asked.map(Path::to_owned).or_else(|| variable.filter(|v| !v.is_empty()).map(PathBuf::from));
    if let Some(path) = named {
        return vec![path];
    }
    let own = runtime_dir.filter(|dir| !is_root && !dir.is_empty());
    let own = own.map(|dir| Path::new(&dir).join("compartments.sock"));
    own.into_iter().chain([SYSTEM_SOCKET.into()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_asked_for_wins_then_variable_then_own() {
        let own = || Some(OsString::from("/run/user/7"));

        assert_eq!(of(Some(Path::new("/a")), Some("/b".into()), own(), false), [Path::new("/a")]);
        assert_eq!(of(None, Some("/b".into()), own(), false), [Path::new("/b")]);
        assert_eq!(
            of(None, None, own(), false),
            [Path::new("/run/user/7/compartments.sock"), Path::new(SYSTEM_SOCKET)]
        );
        assert_eq!(of(None, Some("".into()), own(), true), [Path::new(SYSTEM_SOCKET)]);
    }

    #[test]
    fn socket_lies_beside_the_mount() {
        assert_eq!(socket_beside(Path::new("/run/compartments")), Path::new(SYSTEM_SOCKET));
    }
}
