//! Where cgroups are mounted, and which one a task is in.

use std::io;
use std::path::{Path, PathBuf};

/// The prefix of every cgroup directory that a driver makes: `compartment.<tag>.<pid>`.
pub const PREFIX: &str = "compartment.";

/// Finds the mount point of the v2 hierarchy.
pub fn v2_mount() -> Option<PathBuf> {
    mounts().find(|(_, kind, _)| kind == "cgroup2").map(|(at, ..)| at)
}

/// Finds the mount point of the v1 hierarchy of the cpu controller.
pub fn v1_cpu_mount() -> Option<PathBuf> {
    mounts()
        .find(|(_, kind, options)| kind == "cgroup" && options.split(',').any(|o| o == "cpu"))
        .map(|(at, ..)| at)
}

/// Every mount: mount point, type, super options.
fn mounts() -> impl Iterator<Item = (PathBuf, String, String)> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let lines: Vec<_> = text.lines().filter_map(parse_mount).collect();
    lines.into_iter()
}

fn parse_mount(line: &str) -> Option<(PathBuf, String, String)> {
    let (left, right) = line.split_once(" - ")?;
    let at = left.split(' ').nth(4)?;
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1)?;
    Some((PathBuf::from(at.replace("\\040", " ")), kind.to_owned(), options.to_owned()))
}

/// Gives a task's path in the v2 hierarchy (`/` for the root).
///
/// # Errors
/// `ESRCH` if the task is gone.
pub fn v2_path(pid: i32, tid: i32) -> io::Result<String> {
    path_in(pid, tid, |id, controllers| id == "0" && controllers.is_empty())
}

/// Gives a process's path in the v1 hierarchy of the cpu controller.
///
/// # Errors
/// `ESRCH` if the process is gone.
pub fn v1_cpu_path(pid: i32) -> io::Result<String> {
    path_in(pid, pid, |_, controllers| controllers.split(',').any(|c| c == "cpu"))
}

/// Whether a process is in a cgroup other than the root that the cpu controller divides by, in either version.
pub fn has_cpu_cgroup(pid: i32) -> bool {
    if let Ok(path) = v1_cpu_path(pid) {
        return path != "/";
    }
    let (Some(mount), Ok(path)) = (v2_mount(), v2_path(pid, pid)) else { return false };
    let at = dir(&mount, &path);
    at.ancestors().take_while(|dir| *dir != mount).any(|dir| dir.join("cpu.weight").exists())
}

fn path_in(pid: i32, tid: i32, is_it: impl Fn(&str, &str) -> bool) -> io::Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/cgroup"))
        .map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    text.lines()
        .find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            is_it(id, controllers).then(|| path.trim_end_matches(" (deleted)").to_owned())
        })
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Gives the part of a cgroup path above the first directory of ours.
pub fn above_ours(path: &str) -> &str {
    match path
        .split('/')
        .scan(0, |at, part| {
            let start = *at;
            *at += part.len() + 1;
            Some((start, part))
        })
        .find(|(_, part)| is_ours(part))
    {
        Some((start, _)) => path[..start].trim_end_matches('/'),
        None => path.trim_end_matches('/'),
    }
}

/// Gives the part of a cgroup path down to the first directory of ours; `None` if there is none in it.
pub fn down_to_ours(path: &str) -> Option<&str> {
    let start = above_ours(path).len() + 1;
    let name = path.get(start..)?.split('/').next()?;
    is_ours(name).then(|| &path[..start + name.len()])
}

/// Whether a directory is named as ours are: others may well call theirs `compartment.slice`.
fn is_ours(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let (tag, pid) = rest.split_once('.').map_or((rest, ""), |(tag, pid)| (tag, pid));
    tag.len() == 8
        && tag.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && pid.bytes().all(|b| b.is_ascii_digit())
}

/// Gives the directory of a path in a hierarchy.
pub fn dir(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// Finds every topmost directory of ours below `root` whose name starts with `prefix`.
pub fn find_ours(root: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(at) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&at) else { continue };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            if entry.file_name().to_str().is_some_and(|n| n.starts_with(prefix)) {
                found.push(entry.path());
            } else {
                open.push(entry.path());
            }
        }
    }
    found
}

/// Undoes a directory that [`find_ours`] has found: everything in it is resumed and moved to the directory above, and it is removed. Gives the processes that were in it.
///
/// # Errors
/// The first that came up; the rest was still done.
pub fn undo(top: &Path) -> io::Result<Vec<i32>> {
    let mut first_error = None;
    let mut note = |r: io::Result<()>| {
        if let Err(e) = r
            && e.raw_os_error() != Some(libc::ESRCH)
            && e.kind() != io::ErrorKind::NotFound
        {
            first_error.get_or_insert(e);
        }
    };
    let children: Vec<PathBuf> = std::fs::read_dir(top)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect();
    for child in &children {
        note(std::fs::write(child.join("cgroup.freeze"), "0"));
    }
    if top.join("cgroup.freeze").exists() {
        note(std::fs::write(top.join("cgroup.freeze"), "0"));
    }
    let mut pids = Vec::new();
    // A process may fork while we look: again until nobody is left.
    for _ in 0..100 {
        let now: Vec<i32> = std::fs::read_to_string(top.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
            .filter_map(|l| l.parse().ok())
            .collect();
        if now.is_empty() {
            break;
        }
        let parent = top.parent().unwrap_or(top).join("cgroup.procs");
        for pid in now {
            note(std::fs::write(&parent, pid.to_string()));
            if !pids.contains(&pid) {
                pids.push(pid);
            }
        }
    }
    for dir in children.iter().map(PathBuf::as_path).chain([top]) {
        note(remove_dir_patiently(dir));
    }
    first_error.map_or(Ok(pids), Err)
}

fn remove_dir_patiently(dir: &Path) -> io::Result<()> {
    for _ in 0..50 {
        match std::fs::remove_dir(dir) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
    std::fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_ours_cuts_at_first_of_ours() {
        assert_eq!(above_ours("/a/b/compartment.0123abcd.1/u0"), "/a/b");
        assert_eq!(above_ours("/compartment.0123abcd.1"), "");
        assert_eq!(above_ours("/compartment.0123abcd"), "");
        assert_eq!(above_ours("/compartment.slice/a"), "/compartment.slice/a");
        assert_eq!(above_ours("/a/b"), "/a/b");
        assert_eq!(above_ours("/"), "");
    }

    #[test]
    fn down_to_ours_ends_with_first_of_ours() {
        assert_eq!(down_to_ours("/a/b/compartment.0123abcd.1/u0"), Some("/a/b/compartment.0123abcd.1"));
        assert_eq!(down_to_ours("/compartment.0123abcd.1"), Some("/compartment.0123abcd.1"));
        assert_eq!(down_to_ours("/a/b"), None);
        assert_eq!(down_to_ours("/"), None);
    }

    #[test]
    fn mount_line_is_parsed() {
        let line = "30 20 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu";
        assert_eq!(parse_mount(line), Some(("/sys/fs/cgroup/cpu".into(), "cgroup".into(), "rw,cpu".into())));
    }
}
