//! The client of the control tree: file operations under one directory, with types.
//!
//! - [`Tree`]: a mounted tree, found by [`Tree::find`].
//! - [`Group`]: a directory of `sched-groups` or `mem-groups`.
//! - [`Compartment`]: the groups of one name.
//! - [`values`]: what the files hold.
//! - [`sample`]: groups and members read at one moment, for `ps`, `show` and `top`.
//!
//! Nothing here knows a daemon: any directory of this shape will do, which is what the tests use.

mod compartment;
mod error;
mod group;
pub(crate) mod sample;
pub(crate) mod values;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use compartment::Compartment;
pub(crate) use error::{TreeError, unescape};
pub(crate) use group::{Group, GroupName, Side};

/// The variable that names a mounted tree.
pub(crate) const MOUNT_VARIABLE: &str = "COMPARTMENTS_MOUNT";
/// Where the daemon of the whole machine mounts its tree.
pub(crate) const SYSTEM_MOUNT: &str = "/run/compartments";

/// A mounted control tree.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Opens the tree at `root`.
    ///
    /// # Errors
    /// [`TreeError::Unreachable`] if no `version` can be read there.
    pub(crate) fn open(root: impl Into<PathBuf>) -> Result<Self, TreeError> {
        let root = root.into();
        match fs::read_to_string(root.join("version")) {
            Ok(text) if text.starts_with("compartments ") => Ok(Self { root }),
            Ok(text) => {
                let why = format!("its version is {:?}", text.trim_end());
                Err(TreeError::Unreachable { root, why })
            }
            Err(e) => Err(TreeError::Unreachable { why: crate::exit::describe(&e), root }),
        }
    }

    /// Finds the tree: the one asked for, else the one that `COMPARTMENTS_MOUNT` names, else the user's own, else the machine's.
    ///
    /// # Errors
    /// [`TreeError::Unreachable`].
    pub(crate) fn find(asked: Option<&Path>) -> Result<Self, TreeError> {
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR");
        let is_root = nix::unistd::geteuid().is_root();
        let (last, earlier) = candidates(asked, std::env::var_os(MOUNT_VARIABLE), runtime_dir, is_root);
        earlier.into_iter().find_map(|root| Self::open(root).ok()).map_or_else(|| Self::open(last), Ok)
    }

    /// Gives the directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Gives the group of a half of the tree with that name or number; it need not exist.
    pub(crate) fn group_in(&self, side: Side, name: &GroupName) -> Group {
        Group::new(self.clone(), side, name.clone())
    }

    /// Lists the groups of a half other than 0 that the caller may see, by name.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub(crate) fn groups(&self, side: Side) -> Result<Vec<Group>, TreeError> {
        let dir = self.root.join(side.dir());
        let mut names: Vec<OsString> = Vec::new();
        let entries = match fs::read_dir(&dir) {
            // An earlier daemon has no such half.
            Err(e) if side == Side::Mem && e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| TreeError::io("list", &dir, e))?,
        };
        for entry in entries {
            let entry = entry.map_err(|e| TreeError::io("list", &dir, e))?;
            if entry.file_name() != "0" && entry.file_type().is_ok_and(|t| t.is_dir()) {
                names.push(entry.file_name());
            }
        }
        names.sort();
        Ok(names.into_iter().map(|name| Group::new(self.clone(), side, GroupName::of_entry(name))).collect())
    }

    /// Finds the group of a half that a process or guest task is in. One lookup per group.
    ///
    /// # Errors
    /// [`TreeError::NoTask`] if no group shows it.
    pub(crate) fn group_of(&self, side: Side, pid: i32) -> Result<Group, TreeError> {
        let mut groups = self.groups(side)?;
        groups.push(self.group_in(side, &GroupName::host()));
        groups.into_iter().find(|group| group.has_member(pid)).ok_or(TreeError::NoTask(pid))
    }

    /// Makes a lasting group.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub(crate) fn make_group(&self, side: Side, name: &GroupName) -> Result<Group, TreeError> {
        let group = self.group_in(side, name);
        let path = group.path();
        fs::create_dir(&path).map_err(|e| TreeError::refused(self, "make", &path, e))?;
        Ok(group)
    }

    /// Moves a process from one group into another.
    ///
    /// # Errors
    /// [`TreeError::Io`] with the tree's reason.
    pub(crate) fn move_member(&self, pid: i32, from: &Group, to: &Group) -> Result<(), TreeError> {
        let (old, new) = (from.member_path(pid), to.member_path(pid));
        fs::rename(&old, &new).map_err(|e| TreeError::refused(self, "move", &old, e))
    }
}

/// The places to look at, the last one apart: its failure is the one to report.
fn candidates(
    asked: Option<&Path>,
    variable: Option<OsString>,
    runtime_dir: Option<OsString>,
    is_root: bool,
) -> (PathBuf, Vec<PathBuf>) {
    if let Some(path) = asked {
        return (path.to_owned(), Vec::new());
    }
    if let Some(path) = variable.filter(|v| !v.is_empty()) {
        return (path.into(), Vec::new());
    }
    let own = runtime_dir.filter(|dir| !is_root && !dir.is_empty());
    (SYSTEM_MOUNT.into(), own.map(|dir| Path::new(&dir).join("compartments")).into_iter().collect())
}

/// A tree made of plain files, for tests.
#[cfg(test)]
pub(crate) mod fake {
    use std::fs;
    use std::path::Path;

    use tempfile::TempDir;

    use super::{Group, GroupName, Side, Tree};

    impl Tree {
        /// Gives a sched_group.
        pub(crate) fn group(&self, name: &GroupName) -> Group {
            self.group_in(Side::Sched, name)
        }
    }

    /// A tree with the group `web` (members 41 and 42), and 50 in no group.
    pub(crate) fn tree() -> (TempDir, Tree) {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        write(root, "version", "compartments 0.1.0 abi 1\n");
        write(root, "error_log", "");
        group(root, "0");
        group(root, "web");
        member(root, "web", 41, "running", 2_000_000);
        member(root, "web", 42, "queued", 1_000_000);
        member(root, "0", 50, "running", 7);
        let tree = Tree::open(root).expect("the tree just made");
        (dir, tree)
    }

    /// Writes a file below `root`.
    pub(crate) fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn group(root: &Path, name: &str) {
        for (file, text) in [
            ("scheduler", "guest_o1_scheduler\n"),
            ("representative", "40\n"),
            ("slice_usec", "policy\n"),
            ("vcpus", "1\n"),
            ("nice", "0\n"),
            ("cpu.max", "25000 100000\n"),
            (
                "cpu.stat",
                "usage_usec 3000000\nnr_members 2\nnr_switches 9\nnr_throttled 1\nthrottled_usec 5\nworker_usec 70\n",
            ),
            (
                "cpu.promise",
                "asked 2500000\ngot 2490000\nerror_pct -0.40\nworst_window_usec 9\nlongest_park_usec 8\noverhead_pct 0.1\nexcess_runnable_usec 7\n",
            ),
            ("mode", "park=freeze handover=strict sensor=tracepoint envelope=none\n"),
        ] {
            write(root, &format!("sched-groups/{name}/{file}"), text);
        }
    }

    /// Adds a mem_group.
    pub(crate) fn mem_group(root: &Path, name: &str) {
        for (file, text) in [
            ("vm", "guest_vm\n"),
            ("representative", "45\n"),
            ("memory.max", "67108864\n"),
            ("memory.current", "33554432\n"),
            ("memory.swap.max", "max\n"),
            ("memory.swap.current", "16777216\n"),
            ("memory.swap.tiers", "lz4:16M file:2G:/var/tmp\n"),
            (
                "memory.stat",
                "anon 33550336\nunmanaged 4096\npgfault 1000\npgmajfault 10\nnr_members 1\nworker_usec 500000\n",
            ),
            ("memory.events", "max 3\noom 0\noom_kill 0\n"),
            (
                "memory.pressure",
                "some avg10=1.50 avg60=0.50 avg300=0.10 total=12345\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=99\n",
            ),
        ] {
            write(root, &format!("mem-groups/{name}/{file}"), text);
        }
    }

    /// Adds a member of a mem_group.
    pub(crate) fn mem_member(root: &Path, group: &str, pid: i32) {
        for (file, text) in [
            ("comm", "sh\n"),
            ("memory.current", "2097152\n"),
            ("memory.swap.current", "1048576\n"),
            ("memory.stat", "anon 2093056\nunmanaged 4096\nswapped 1048576\npgfault 7\npgmajfault 2\n"),
            ("unmanaged", "1000-3000 4096 locked\n"),
        ] {
            write(root, &format!("mem-groups/{group}/{pid}/{file}"), text);
        }
    }

    /// Adds a member.
    pub(crate) fn member(root: &Path, group: &str, pid: i32, state: &str, usage_usec: u64) {
        for (file, text) in [
            ("comm", "sh\n".to_owned()),
            ("nice", "5\n".to_owned()),
            ("policy", "normal\n".to_owned()),
            ("state", format!("{state}\n")),
            (
                "sched",
                "static_prio 125\nprio 120\nbonus 5\nsleep_avg_usec 0\ninteractive 0\nslice_left_usec 100\n"
                    .to_owned(),
            ),
            ("stat", format!("usage_usec {usage_usec}\nwait_usec 3\nnr_switches 4\n")),
            ("signal", String::new()),
        ] {
            write(root, &format!("sched-groups/{group}/{pid}/{file}"), &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_without_version_is_unreachable() {
        let dir = tempfile::tempdir().expect("a directory");

        let error = Tree::open(dir.path()).expect_err("there is none");

        assert_eq!(error.exit(), crate::exit::Exit::Unreachable);
    }

    #[test]
    fn candidates_asked_wins_then_variable_then_own() {
        let own = || Some(OsString::from("/run/user/7"));

        assert_eq!(candidates(Some(Path::new("/a")), Some("/b".into()), own(), false).0, Path::new("/a"));
        assert_eq!(candidates(None, Some("/b".into()), own(), false).0, Path::new("/b"));
        assert_eq!(candidates(None, None, own(), false).1, [Path::new("/run/user/7/compartments")]);
        assert_eq!(candidates(None, None, own(), true), (SYSTEM_MOUNT.into(), Vec::new()));
    }

    #[test]
    fn group_of_member_is_found_and_0_is_the_last() {
        let (_dir, tree) = fake::tree();

        assert_eq!(tree.group_of(Side::Sched, 41).expect("a member").name().to_string(), "web");
        assert_eq!(tree.group_of(Side::Sched, 50).expect("on the host").name().to_string(), "0");
        assert!(matches!(tree.group_of(Side::Sched, 9), Err(TreeError::NoTask(9))));
    }

    #[test]
    fn member_moved_is_in_the_other_group() {
        let (_dir, tree) = fake::tree();
        let web = tree.group(&"web".parse().expect("a name"));

        tree.move_member(50, &tree.group_of(Side::Sched, 50).expect("on the host"), &web).expect("a rename");

        assert_eq!(web.members().expect("readable"), [41, 42, 50]);
    }
}
