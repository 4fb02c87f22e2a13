//! What of ours is left on the host when nothing of ours should be: processes, mounts, cgroups, stopped processes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Names of programs of ours.
const PROGRAMS: &[&str] = &["compartment", "compartmentd"];
/// First arguments with which a program (ours, or a test that plays ours) is one of our helpers.
const ROLES: &[&str] = &["keeper", "mem-keeper", "exec-gate"];
/// How the names of cgroups of ours begin.
const CGROUPS: &[&str] = &["compartment.", "compartment-doctor-", "compartment-bench."];
/// So many things are named at most.
const SHOWN: usize = 20;
/// Something that is just ending gets so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is there: one line for each thing.
pub(crate) type Found = BTreeSet<String>;

/// The task `leftovers`.
///
/// # Errors
/// If something is left.
pub(crate) fn run() -> Result<()> {
    verdict(&look()).map(|_| println!("nothing is left"))
}

/// Waits until nothing is there that was not there `before`.
///
/// # Errors
/// If something stays.
pub(crate) fn check_against(before: &Found) -> Result<Option<String>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let new: Found = look().difference(before).cloned().collect();
        if new.is_empty() || Instant::now() > deadline {
            return verdict(&new);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn verdict(found: &Found) -> Result<Option<String>> {
    if found.is_empty() {
        return Ok(None);
    }
    let mut lines: Vec<String> = found.iter().take(SHOWN).cloned().collect();
    if found.len() > SHOWN {
        lines.push(format!("and {} more", found.len() - SHOWN));
    }
    bail!(
        "{} things are left on this host (`compartment recover` mends it):\n  {}",
        found.len(),
        lines.join("\n  ")
    )
}

/// Looks for everything.
pub(crate) fn look() -> Found {
    let mut found = Found::new();
    processes(&mut found);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for (at, kind, source) in mounts.lines().filter_map(parse_mount) {
        if is_our_mount(&kind, &source) {
            found.insert(format!("mount {} ({kind})", at.display()));
        }
        if kind == "cgroup" || kind == "cgroup2" {
            cgroups(&at, &mut found);
        }
    }
    found
}

fn processes(found: &mut Found) {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let dir = entry.path();
        let Ok(stat) = fs::read_to_string(dir.join("stat")) else { continue };
        let Some(state) = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) else { continue };
        if state == 'Z' {
            continue;
        }
        let exe = fs::read_link(dir.join("exe")).unwrap_or_default();
        let cmdline = fs::read(dir.join("cmdline")).unwrap_or_default();
        let args: Vec<String> =
            cmdline.split(|b| *b == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        if is_ours(&exe, &args) {
            found.insert(format!("process {pid}: {}", args.join(" ").trim_end()));
        }
        if state == 'T' {
            found.insert(format!("stopped process {pid}: {}", args.join(" ").trim_end()));
        }
    }
}

fn is_ours(exe: &Path, args: &[String]) -> bool {
    let name = exe.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    PROGRAMS.contains(&name) || args.get(1).is_some_and(|arg| ROLES.contains(&arg.as_str()) && args.len() > 2)
}

fn is_our_mount(kind: &str, source: &str) -> bool {
    kind == "fuse.compartments"
        || kind == "fuse.compartmentfs"
        || (kind.starts_with("fuse") && source.starts_with("compartment"))
}

fn parse_mount(line: &str) -> Option<(PathBuf, String, String)> {
    let (left, right) = line.split_once(" - ")?;
    let at = left.split(' ').nth(4)?.replace("\\040", " ");
    let mut right = right.split(' ');
    Some((at.into(), right.next()?.to_owned(), right.next()?.to_owned()))
}

fn cgroups(at: &Path, found: &mut Found) {
    let Ok(entries) = fs::read_dir(at) else { return };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        let path = entry.path();
        let name = entry.file_name();
        if CGROUPS.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            let is_frozen = fs::read_to_string(path.join("cgroup.freeze")).is_ok_and(|t| t.trim() == "1");
            found.insert(format!("cgroup {}{}", path.display(), if is_frozen { " (frozen)" } else { "" }));
        } else {
            cgroups(&path, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(exe: &str, args: &[&str]) -> bool {
        is_ours(Path::new(exe), &args.iter().map(|&a| a.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn programs_of_ours_are_told_from_others() {
        assert!(ours("/x/target/debug/compartment", &["compartment", "daemon"]));
        assert!(ours("/usr/bin/compartmentd (deleted)", &["compartmentd"]));
        assert!(ours("/x/deps/driver-123", &["driver-123", "keeper", "/state"]));
        assert!(!ours("/usr/bin/vi", &["vi", "compartment"]));
        assert!(!ours("/usr/bin/vi", &["vi", "keeper"]));
    }

    #[test]
    fn mounts_of_ours_are_told_from_others() {
        let line = "50 20 0:44 / /run/compartments rw shared:9 - fuse.compartments compartments rw,user_id=0";
        let (at, kind, source) = parse_mount(line).expect("a mount");

        assert_eq!(at, Path::new("/run/compartments"));
        assert!(is_our_mount(&kind, &source));
        assert!(!is_our_mount("fuse.sshfs", "host:"));
    }
}
