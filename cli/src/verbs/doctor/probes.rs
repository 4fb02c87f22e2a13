//! The probes: each tries the thing itself where that leaves no trace.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use host_sys::perf::{Report, Ring, ThreadEvent};
use host_sys::sched::{Favour, favour_self};
use host_sys::uffd::{self, Abilities, Userfaultfd};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{Pid, gettid};
use serde::Serialize;

use super::host::{CAP_SYS_ADMIN, CAP_SYS_PTRACE, Host, has_program, number};
use crate::exit::describe;

/// How well something works.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Grade {
    /// As well as it can.
    Ok,
    /// With a drawback.
    Limited,
    /// Not at all.
    Missing,
}

impl Grade {
    /// The word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

/// What a probe found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) name: &'static str,
    pub(super) grade: Grade,
    pub(super) detail: String,
    pub(super) remedy: Option<String>,
}

fn ok(name: &'static str, detail: impl Into<String>) -> Finding {
    Finding { name, grade: Grade::Ok, detail: detail.into(), remedy: None }
}

fn limited(name: &'static str, detail: impl Into<String>, remedy: &str) -> Finding {
    Finding { name, grade: Grade::Limited, detail: detail.into(), remedy: Some(remedy.into()) }
}

fn missing(name: &'static str, detail: impl Into<String>, remedy: &str) -> Finding {
    Finding { name, grade: Grade::Missing, detail: detail.into(), remedy: Some(remedy.into()) }
}

/// Runs all probes.
pub(super) fn all(host: &Host) -> Vec<Finding> {
    vec![
        fuse(host),
        freeze(host),
        cpu_cgroup(host),
        autogroup(),
        perf(),
        tracepoints(host),
        ptrace(host),
        userfaultfd(),
        uffd_move(),
        real_time(),
        open_files(),
    ]
}

fn fuse(host: &Host) -> Finding {
    const NAME: &str = "fuse";
    match fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => missing(
            NAME,
            "no /dev/fuse",
            "load the module: modprobe fuse (in a container: give it the device /dev/fuse)",
        ),
        Err(e) => missing(
            NAME,
            format!("/dev/fuse: {}", describe(&e)),
            "make /dev/fuse readable and writable: mode 0666",
        ),
        Ok(_) if host.has(CAP_SYS_ADMIN) => ok(NAME, "/dev/fuse opens, and we may mount"),
        Ok(_) if has_program("fusermount3") => ok(NAME, "/dev/fuse opens, fusermount3 mounts"),
        Ok(_) => missing(
            NAME,
            "/dev/fuse opens, but nothing mounts for us",
            "install the package fuse3 (fusermount3)",
        ),
    }
}

/// A cgroup of our own for the time of a probe.
struct Trial(PathBuf);

impl Trial {
    fn make(parent: &Path) -> io::Result<Self> {
        let dir = parent.join(format!("compartment-doctor-{}", std::process::id()));
        fs::create_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn freeze(host: &Host) -> Finding {
    const NAME: &str = "freeze";
    const DELEGATE: &str =
        "have a cgroup delegated: systemd-run --user --scope -p Delegate=yes, or run as root";
    let Some(own) = host.own_cgroup() else {
        let remedy = "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified; until then members are stopped by signals";
        return missing(NAME, "no cgroup v2 is mounted", remedy);
    };
    let tried = Trial::make(&own).and_then(|trial| {
        fs::write(trial.0.join("cgroup.freeze"), "1")?;
        fs::write(trial.0.join("cgroup.freeze"), "0")?;
        // Who may not write here may not move a process of its own below either.
        fs::OpenOptions::new().write(true).open(own.join("cgroup.procs")).map(drop)
    });
    let who = if host.is_root { "root's" } else { "delegated to us" };
    match tried {
        Ok(()) => ok(NAME, format!("cgroup v2 freezes below {} ({who})", own.display())),
        Err(e) => missing(
            NAME,
            format!("no cgroup can be frozen below {}: {}", own.display(), describe(&e)),
            DELEGATE,
        ),
    }
}

fn cpu_cgroup(host: &Host) -> Finding {
    const NAME: &str = "cpu cgroup";
    const REMEDY: &str = "as root, where the cpu controller has a v1 hierarchy; without it handover is strict, which costs a little work done";
    if let Some(own) = host.own_v1_cgroup("cpu") {
        return match Trial::make(&own) {
            Ok(_) => ok(NAME, format!("v1 hierarchy, writable at {}", own.display())),
            Err(e) => missing(NAME, format!("v1 at {}: {}", own.display(), describe(&e)), REMEDY),
        };
    }
    let controllers =
        host.own_cgroup().and_then(|own| fs::read_to_string(own.join("cgroup.controllers")).ok());
    match controllers {
        Some(list) if list.split_whitespace().any(|c| c == "cpu") => {
            limited(NAME, "only in cgroup v2, where moving members would lift other limits", REMEDY)
        }
        _ => missing(NAME, "no cpu controller", REMEDY),
    }
}

fn autogroup() -> Finding {
    const NAME: &str = "autogroup";
    match number("/proc/sys/kernel/sched_autogroup_enabled") {
        Some(1) => ok(NAME, "on: sessions share the CPU evenly"),
        Some(_) => {
            limited(NAME, "off", "sysctl kernel.sched_autogroup_enabled=1 (an envelope for ordinary users)")
        }
        None => missing(NAME, "not in this kernel", "a kernel with CONFIG_SCHED_AUTOGROUP"),
    }
}

fn own_cpu() -> i32 {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let first = (0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    first.and_then(|cpu| i32::try_from(cpu).ok()).unwrap_or(0)
}

/// Opens an event of ourselves.
fn try_event(report: Report) -> io::Result<()> {
    let ring = Ring::new(own_cpu(), 1)?;
    ThreadEvent::open(report, gettid().as_raw(), &ring).map(drop)
}

fn perf() -> Finding {
    const NAME: &str = "perf";
    let paranoid = number("/proc/sys/kernel/perf_event_paranoid");
    let level =
        paranoid.map_or_else(|| "no perf_event_paranoid".into(), |n| format!("perf_event_paranoid is {n}"));
    match try_event(Report::Tasks { switches: true }) {
        Ok(()) => ok(NAME, format!("switch records can be had; {level}")),
        Err(e) => {
            let remedy =
                "sysctl kernel.perf_event_paranoid=2 (in a container: allow the system call perf_event_open)";
            missing(NAME, format!("perf_event_open: {}; {level}", describe(&e)), remedy)
        }
    }
}

fn tracepoints(host: &Host) -> Finding {
    const NAME: &str = "tracepoints";
    // PROC_PID_INIT_INO: tracepoints tell the numbers of the first PID namespace, which others cannot use.
    if !fs::metadata("/proc/self/ns/pid").is_ok_and(|m| m.ino() == 0xEFFF_FFFC) {
        return missing(
            NAME,
            "we are in a PID namespace, tracepoints are not",
            "run on the host itself; switch records do it here",
        );
    }
    let roots = [host.mount_of("tracefs").map(Path::to_owned), Some("/sys/kernel/debug/tracing".into())];
    let id = roots.into_iter().flatten().find_map(|root| {
        let text = fs::read_to_string(root.join("events/sched/sched_switch/id"));
        text.ok()?.trim().parse().ok()
    });
    let Some(id) = id else {
        return match (host.mount_of("tracefs"), host.has(CAP_SYS_ADMIN)) {
            (None, true) => ok(NAME, "tracefs is not mounted; a worker mounts it for a moment"),
            (None, false) => {
                missing(NAME, "tracefs is not mounted", "as root: mount -t tracefs nodev /sys/kernel/tracing")
            }
            (Some(at), _) => {
                missing(NAME, format!("{} cannot be read", at.display()), "root's daemon may read it")
            }
        };
    };
    match try_event(Report::Tracepoint(id)) {
        Ok(()) => ok(NAME, "sched_switch can be watched"),
        Err(e) => missing(
            NAME,
            format!("perf_event_open: {}", describe(&e)),
            "root's daemon may; switch records do it here",
        ),
    }
}

fn ptrace(host: &Host) -> Finding {
    const NAME: &str = "ptrace";
    const REMEDY: &str = "sysctl kernel.yama.ptrace_scope=1, or run as root";
    match number("/proc/sys/kernel/yama/ptrace_scope") {
        None | Some(0) => ok(NAME, "not restricted"),
        Some(level) if host.has(CAP_SYS_PTRACE) && level < 3 => {
            ok(NAME, format!("yama level {level}, we have CAP_SYS_PTRACE"))
        }
        Some(1) => limited(NAME, "yama level 1: own children only", REMEDY),
        Some(level) => missing(NAME, format!("yama level {level}"), REMEDY),
    }
}

/// What a memory group cannot do without.
fn userfaultfd() -> Finding {
    const NAME: &str = "userfaultfd";
    match Userfaultfd::probe() {
        Ok(_) => ok(NAME, "/dev/userfaultfd opens"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => missing(
            NAME,
            "no /dev/userfaultfd",
            "Linux 6.1 or later with CONFIG_USERFAULTFD (for memory groups)",
        ),
        Err(e) => {
            let remedy = format!("{} (for memory groups)", uffd::REMEDY);
            missing(NAME, format!("faults in system calls cannot be served: {}", describe(&e)), &remedy)
        }
    }
}

fn uffd_move() -> Finding {
    const NAME: &str = "uffd move";
    let remedy = format!("{} (for memory groups)", uffd::MOVE_REMEDY);
    let release = nix::sys::utsname::uname()
        .map_or_else(|_| "?".into(), |name| name.release().to_string_lossy().into_owned());
    match Userfaultfd::probe() {
        Ok(Abilities { has_move: true }) => ok(NAME, format!("UFFDIO_MOVE is there (Linux {release})")),
        Ok(_) => missing(NAME, format!("Linux {release} has no UFFDIO_MOVE"), &remedy),
        Err(e) => missing(NAME, format!("cannot be told without userfaultfd: {}", describe(&e)), &remedy),
    }
}

fn real_time() -> Finding {
    const NAME: &str = "priority";
    // In a thread that ends at once: the priority must not stay with us.
    match std::thread::spawn(favour_self).join() {
        Ok(Favour::Fifo) => ok(NAME, "workers may use SCHED_FIFO"),
        Ok(Favour::ShortSlice) => limited(
            NAME,
            "no SCHED_FIFO; a short slice instead",
            "raise RLIMIT_RTPRIO to 1, or run as root (decisions come sooner)",
        ),
        _ => missing(
            NAME,
            "neither SCHED_FIFO nor short slices",
            "raise RLIMIT_RTPRIO to 1, or a kernel from 6.12 on",
        ),
    }
}

fn open_files() -> Finding {
    const NAME: &str = "open files";
    /// About six descriptors per member and CPU.
    const ENOUGH: u64 = 65_536;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= ENOUGH => ok(NAME, format!("up to {hard}")),
        Ok((_, hard)) => limited(
            NAME,
            format!("up to {hard}: large groups will not fit"),
            "raise RLIMIT_NOFILE to 65536 (ulimit -Hn)",
        ),
        Err(e) => missing(NAME, e.desc(), "raise RLIMIT_NOFILE to 65536 (ulimit -Hn)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_find_something_and_name_a_remedy_for_the_rest() {
        let findings = all(&Host::look());

        assert_eq!(findings.len(), 11);
        for finding in findings {
            assert_eq!(finding.remedy.is_some(), finding.grade != Grade::Ok, "{finding:?}");
            assert!(!finding.detail.is_empty());
        }
    }

    #[test]
    fn priority_tried_does_not_stay() {
        let before = host_sys::sched::get(0).expect("of ourselves").policy;
        real_time();
        assert_eq!(host_sys::sched::get(0).expect("of ourselves").policy, before);
    }
}
