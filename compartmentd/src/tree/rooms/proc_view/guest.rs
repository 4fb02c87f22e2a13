//! What `/proc` would say of a guest task, were it a process: as `proc(5)` has it, where nothing is known as of a thread of the kernel.

use std::fmt::Write as _;

use guest_task::TaskState;
use nix::time::{ClockId, clock_gettime};

use crate::tasks::{App, Found, Guests};

/// The unit of times in `/proc`, `USER_HZ`: the same on all architectures that we are built for.
const TICKS_PER_SECOND: u64 = 100;
const TICK_NS: u64 = 1_000_000_000 / TICKS_PER_SECOND;

/// What a file of a guest task holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// Made of what its application says of it.
    Text(fn(&Task) -> String),
    /// The application's own.
    Application(&'static str),
    /// Nothing: a file.
    Empty,
    /// Nothing: a directory.
    NoEntries,
    /// A link to the top.
    Top,
}

/// The files of a task, and of its one thread, with their modes.
pub(super) const FILES: [(&str, u16, Content); 23] = [
    ("stat", 0o444, Content::Text(stat)),
    ("status", 0o444, Content::Text(status)),
    ("statm", 0o444, Content::Text(statm)),
    ("comm", 0o444, Content::Text(comm)),
    ("cmdline", 0o444, Content::Text(cmdline)),
    ("cgroup", 0o444, Content::Application("cgroup")),
    ("limits", 0o444, Content::Application("limits")),
    ("io", 0o400, Content::Text(io)),
    ("schedstat", 0o444, Content::Text(schedstat)),
    ("environ", 0o400, Content::Empty),
    ("maps", 0o444, Content::Empty),
    ("smaps", 0o444, Content::Empty),
    ("smaps_rollup", 0o444, Content::Text(smaps_rollup)),
    ("wchan", 0o444, Content::Text(|_| "0".into())),
    ("oom_score", 0o444, Content::Text(|_| "0\n".into())),
    ("oom_score_adj", 0o444, Content::Text(|_| "0\n".into())),
    ("loginuid", 0o444, Content::Text(|_| u32::MAX.to_string())),
    ("sessionid", 0o444, Content::Text(|_| u32::MAX.to_string())),
    ("fd", 0o500, Content::NoEntries),
    ("fdinfo", 0o500, Content::NoEntries),
    ("cwd", 0o777, Content::Top),
    ("root", 0o777, Content::Top),
    // Not as in /proc: whose it is.
    ("application", 0o444, Content::Text(|task| format!("{}\n", task.app.pid))),
];

/// Files that are those of the task's directory in `sched-groups`.
pub(super) const CONTROLS: [&str; 2] = ["nice", "signal"];

/// A task with what has to be looked up for its texts.
#[derive(Debug)]
pub(super) struct Task {
    pid: i32,
    ppid: i32,
    pub(super) app: App,
    found: Found,
}

impl Task {
    pub(super) fn new(guests: &Guests, pid: i32, found: Found) -> Self {
        Self { pid, ppid: guests.parent(&found), app: found.app(), found }
    }

    fn ticks(&self) -> u64 {
        self.found.view.cpu_ns / TICK_NS
    }

    fn pages(&self) -> u64 {
        self.found.view.memory_bytes / page_size()
    }

    /// The state's letter, and the word that the kernel has for it.
    fn state(&self) -> (char, &'static str) {
        match self.found.view.state {
            TaskState::Running | TaskState::Queued => ('R', "running"),
            TaskState::Sleeping => ('S', "sleeping"),
            TaskState::Waiting => ('D', "disk sleep"),
            TaskState::Stopped => ('T', "stopped"),
        }
    }

    /// When it began, in ticks after boot: of the clock that goes on while the machine sleeps.
    fn start_ticks(&self) -> u64 {
        let slept = now_ns(ClockId::CLOCK_BOOTTIME).saturating_sub(now_ns(ClockId::CLOCK_MONOTONIC));
        self.found.view.start_ns.saturating_add(slept) / TICK_NS
    }
}

fn now_ns(clock: ClockId) -> u64 {
    clock_gettime(clock)
        .map_or(0, |now| now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}

fn page_size() -> u64 {
    use nix::unistd::{SysconfVar, sysconf};
    sysconf(SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, i64::cast_unsigned).max(1)
}

/// Fields 1 to 52 of `proc_pid_stat(5)`. A task is a process group of its own, and in no session, as threads of the kernel are.
fn stat(task: &Task) -> String {
    const PF_RANDOMIZE: u32 = 0x0040_0000;
    let (pid, view) = (task.pid, &task.found.view);
    let mut out = format!(
        "{pid} ({}) {} {} {pid} 0 0 -1 {PF_RANDOMIZE} 0 0 0 0 {} 0 0 0 {} {} 1 0 {} {} {} {}",
        view.name,
        task.state().0,
        task.ppid,
        task.ticks(),
        20 + i32::from(view.nice),
        view.nice,
        task.start_ticks(),
        view.memory_bytes,
        task.pages(),
        u64::MAX,
    );
    // startcode … wchan, nswap, cnswap; exit_signal; processor … exit_code.
    out.push_str(&" 0".repeat(12));
    let _ = write!(out, " {}", libc::SIGCHLD);
    out.push_str(&" 0".repeat(14));
    out.push('\n');
    out
}

fn status(task: &Task) -> String {
    let (pid, view, (letter, word)) = (task.pid, &task.found.view, task.state());
    let ids = |id: u32| format!("{id}\t{id}\t{id}\t{id}");
    let (uids, gids, kib) = (ids(task.app.uid), ids(task.app.gid), view.memory_bytes / 1024);
    let none = "0000000000000000";
    format!(
        "Name:\t{}\nUmask:\t0022\nState:\t{letter} ({word})\nTgid:\t{pid}\nNgid:\t0\nPid:\t{pid}\nPPid:\t{}\nTracerPid:\t0\n\
         Uid:\t{uids}\nGid:\t{gids}\nFDSize:\t0\nGroups:\t \nNStgid:\t{pid}\nNSpid:\t{pid}\nNSpgid:\t{pid}\nNSsid:\t0\nKthread:\t0\n\
         VmPeak:\t{kib:8} kB\nVmSize:\t{kib:8} kB\nVmLck:\t       0 kB\nVmPin:\t       0 kB\nVmHWM:\t{kib:8} kB\n\
         VmRSS:\t{kib:8} kB\nRssAnon:\t{kib:8} kB\nRssFile:\t       0 kB\nRssShmem:\t       0 kB\nVmData:\t{kib:8} kB\n\
         VmStk:\t       0 kB\nVmExe:\t       0 kB\nVmLib:\t       0 kB\nVmPTE:\t       0 kB\nVmSwap:\t       0 kB\n\
         Threads:\t1\nSigQ:\t0/0\nSigPnd:\t{none}\nShdPnd:\t{none}\nSigBlk:\t{none}\nSigIgn:\t{none}\nSigCgt:\t{:016x}\n\
         CapInh:\t{none}\nCapPrm:\t{none}\nCapEff:\t{none}\nCapBnd:\t{none}\nCapAmb:\t{none}\nNoNewPrivs:\t0\nSeccomp:\t0\n\
         voluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n",
        view.name, task.ppid, view.signals,
    )
}

fn statm(task: &Task) -> String {
    let pages = task.pages();
    format!("{pages} {pages} 0 0 0 {pages} 0\n")
}

fn comm(task: &Task) -> String {
    format!("{}\n", task.found.view.name)
}

fn cmdline(task: &Task) -> String {
    task.found.view.cmdline.clone()
}

fn schedstat(task: &Task) -> String {
    format!("{} 0 0\n", task.found.view.cpu_ns)
}

fn smaps_rollup(task: &Task) -> String {
    let kib = task.found.view.memory_bytes / 1024;
    let mut out = String::from("00000000-00000000 ---p 00000000 00:00 0                          [rollup]\n");
    for (key, value) in [
        ("Rss", kib),
        ("Pss", kib),
        ("Shared_Clean", 0),
        ("Shared_Dirty", 0),
        ("Private_Clean", 0),
        ("Private_Dirty", kib),
        ("Referenced", kib),
        ("Anonymous", kib),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", 0),
    ] {
        let _ = writeln!(out, "{:<15} {value:8} kB", format!("{key}:"));
    }
    out
}

fn io(_: &Task) -> String {
    "rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n".into()
}
