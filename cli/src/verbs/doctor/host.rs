//! Facts about the host and the caller that several probes use.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, geteuid};

/// `CAP_*` numbers.
pub(super) const CAP_SYS_PTRACE: u32 = 19;
pub(super) const CAP_SYS_ADMIN: u32 = 21;

/// The caller and its mounts.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) is_root: bool,
    capabilities: u64,
    mounts: Vec<Mount>,
    cgroups: Vec<(String, String)>,
}

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mount {
    /// Where it is.
    pub(super) at: PathBuf,
    root: String,
    kind: String,
    options: String,
}

impl Host {
    /// Reads the facts.
    pub(super) fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            is_root: geteuid().is_root(),
            capabilities: parse_capabilities(&read("/proc/self/status")),
            mounts: parse_mounts(&read("/proc/self/mountinfo")),
            cgroups: parse_cgroups(&read("/proc/self/cgroup")),
        }
    }

    /// Whether the caller has a capability.
    pub(super) fn has(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }

    /// Gives the directory of the caller's own cgroup v2.
    pub(super) fn own_cgroup(&self) -> Option<PathBuf> {
        let mount = self.mounts.iter().find(|m| m.kind == "cgroup2")?;
        self.own_below(mount, "")
    }

    /// Gives the directory of the caller's own cgroup in the v1 hierarchy of a controller.
    pub(super) fn own_v1_cgroup(&self, controller: &str) -> Option<PathBuf> {
        let has = |list: &str| list.split(',').any(|word| word == controller);
        let mount = self.mounts.iter().find(|m| m.kind == "cgroup" && has(&m.options))?;
        let controllers = &self.cgroups.iter().find(|(controllers, _)| has(controllers))?.0;
        self.own_below(mount, controllers)
    }

    fn own_below(&self, mount: &Mount, controllers: &str) -> Option<PathBuf> {
        let path = &self.cgroups.iter().find(|(c, _)| c == controllers)?.1;
        // A container's mount shows only the part of the hierarchy below its root.
        let below = path.strip_prefix(mount.root.trim_end_matches('/')).unwrap_or(path);
        Some(mount.at.join(below.trim_start_matches('/')))
    }

    /// Gives where a file system of that kind is mounted.
    pub(super) fn mount_of(&self, kind: &str) -> Option<&Path> {
        self.mounts.iter().find(|m| m.kind == kind).map(|m| m.at.as_path())
    }
}

/// Whether a program can be found in `PATH`.
pub(super) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| access(&dir.join(name), AccessFlags::X_OK).is_ok())
}

/// Reads a number from a file of `/proc/sys`.
pub(super) fn number(path: &str) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn parse_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

fn parse_mounts(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut before = before.split(' ').skip(3);
            let (root, at) = (before.next()?, before.next()?);
            let mut after = after.split(' ');
            let kind = after.next()?;
            let options = after.nth(1)?;
            Some(Mount {
                at: crate::tree::unescape(at).into(),
                root: crate::tree::unescape(root),
                kind: kind.into(),
                options: options.into(),
            })
        })
        .collect()
}

fn parse_cgroups(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(mounts: &str, cgroups: &str) -> Host {
        Host {
            is_root: false,
            capabilities: 1 << 21,
            mounts: parse_mounts(mounts),
            cgroups: parse_cgroups(cgroups),
        }
    }

    #[test]
    fn own_cgroups_are_found_in_both_versions() {
        let host = host(
            "30 20 0:1 / /sys/fs/cgroup/cpu rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n\
             31 20 0:2 / /sys/fs/cgroup/my\\040v2 rw - cgroup2 cgroup2 rw\n",
            "4:cpu,cpuacct:/a\n0::/b/c\n",
        );

        assert_eq!(host.own_cgroup(), Some("/sys/fs/cgroup/my v2/b/c".into()));
        assert_eq!(host.own_v1_cgroup("cpu"), Some("/sys/fs/cgroup/cpu/a".into()));
        assert_eq!(host.own_v1_cgroup("cpuset"), None);
    }

    #[test]
    fn own_cgroup_in_a_container_is_below_the_mounts_root() {
        let host = host("30 20 0:1 /pod/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/pod/x/y\n");
        assert_eq!(host.own_cgroup(), Some("/sys/fs/cgroup/y".into()));
    }

    #[test]
    fn capabilities_are_bits() {
        let host = Host {
            capabilities: parse_capabilities("Name:\tx\nCapEff:\t0000000000200000\n"),
            ..host("", "")
        };
        assert!(host.has(CAP_SYS_ADMIN));
        assert!(!host.has(CAP_SYS_PTRACE));
    }
}
