//! Looks at processes that ask nothing of what is tested: `/proc` and the cgroup file system.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// The last CPU that we may use: all that is measured runs there.
pub fn cpu() -> usize {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("our CPUs");
    (0..nix::sched::CpuSet::count()).rev().find(|&c| set.is_set(c) == Ok(true)).expect("a CPU")
}

/// How many CPUs we may use.
pub fn nr_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A field of `/proc/PID/stat` after the name, the state being number 0.
pub fn stat_field(pid: i32, field: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(field).map(str::to_owned)
}

/// The state letter of a process.
pub fn state(pid: i32) -> Option<char> {
    stat_field(pid, 0)?.chars().next()
}

/// The name of a process.
pub fn comm(pid: i32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// The parent of a process.
pub fn parent(pid: i32) -> Option<i32> {
    stat_field(pid, 1)?.parse().ok()
}

/// The nice value of a process on the host.
pub fn nice(pid: i32) -> Option<i32> {
    stat_field(pid, 16)?.parse().ok()
}

/// The policy of a process on the host, as `SCHED_*`, and its real-time priority.
pub fn policy(pid: i32) -> Option<(i32, i32)> {
    Some((stat_field(pid, 38)?.parse().ok()?, stat_field(pid, 37)?.parse().ok()?))
}

/// The threads of a process.
pub fn threads(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// The children of a process, of all its threads.
pub fn children(pid: i32) -> Vec<i32> {
    let lists =
        threads(pid).into_iter().map(|t| fs::read_to_string(format!("/proc/{pid}/task/{t}/children")));
    lists
        .flat_map(|l| {
            l.unwrap_or_default().split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// CPU time of a thread in milliseconds.
pub fn thread_cpu_ms(pid: i32, tid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).unwrap_or_default();
    text.split_whitespace().next().and_then(|v| v.parse::<u64>().ok()).unwrap_or(0) as f64 / 1e6
}

/// CPU time of a process, all living threads, in milliseconds.
pub fn cpu_ms(pid: i32) -> f64 {
    threads(pid).into_iter().map(|t| thread_cpu_ms(pid, t)).sum()
}

/// How often all threads of a process gave up the CPU by themselves.
pub fn voluntary_switches(pid: i32) -> u64 {
    let statuses =
        threads(pid).into_iter().map(|t| fs::read_to_string(format!("/proc/{pid}/task/{t}/status")));
    statuses
        .filter_map(|s| {
            s.ok()?
                .lines()
                .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
        })
        .sum()
}

/// CPU time that these used in a time, in milliseconds.
pub fn used_ms(pids: &[i32], time: Duration) -> Vec<f64> {
    let before: Vec<f64> = pids.iter().map(|&p| cpu_ms(p)).collect();
    std::thread::sleep(time);
    pids.iter().zip(before).map(|(&p, b)| cpu_ms(p) - b).collect()
}

/// Shares in percent of what these processes used together in `seconds`.
pub fn shares(pids: &[i32], seconds: u64) -> Vec<f64> {
    percent(&used_ms(pids, Duration::from_secs(seconds)))
}

/// Parts in percent of their sum.
pub fn percent(parts: &[f64]) -> Vec<f64> {
    let total: f64 = parts.iter().sum();
    parts.iter().map(|u| 100.0 * u / total).collect()
}

/// Measures until the values are as expected, three times at most: the machine is shared.
pub fn assert_near(expected: &[f64], tolerance: f64, mut measure: impl FnMut() -> Vec<f64>) {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let got = measure();
        if got.iter().zip(expected).all(|(g, e)| (g - e).abs() <= tolerance) {
            return;
        }
        seen.push(got);
    }
    panic!("{seen:.1?}, expected {expected:?} within {tolerance}");
}

/// Checks the shares in percent of these processes, over `seconds`.
pub fn assert_shares(pids: &[i32], expected: &[f64], tolerance: f64, seconds: u64) {
    assert_near(expected, tolerance, || shares(pids, seconds));
}

/// Where the v2 hierarchy is mounted.
pub fn v2_mount() -> Option<PathBuf> {
    guest_sched::host::cgroup::v2_mount()
}

/// The v2 cgroup of a process.
pub fn cgroup_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("").to_owned()
}

/// Whether nothing of ours holds any thread of the process: no frozen cgroup, no stop.
pub fn is_free(pid: i32) -> bool {
    if state(pid) == Some('T') {
        return false;
    }
    let Some(mount) = v2_mount() else { return true };
    threads(pid).into_iter().all(|tid| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/cgroup")).unwrap_or_default();
        let path = text.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or("");
        let freeze = mount.join(path).join("cgroup.freeze");
        !path.contains("compartment.") || fs::read_to_string(freeze).unwrap_or_default().trim() != "1"
    })
}

/// What there is to say of a process and its children when a test has failed.
pub fn describe(pid: i32) -> String {
    let mut text = String::new();
    for tid in threads(pid) {
        let at = format!("/proc/{pid}/task/{tid}");
        let read =
            |file: &str| fs::read_to_string(format!("{at}/{file}")).unwrap_or_default().trim().to_owned();
        let cgroup = read("cgroup");
        let path = cgroup.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or("");
        let freeze = v2_mount().map(|mount| {
            ["cgroup.freeze", "cgroup.events"]
                .map(|f| fs::read_to_string(mount.join(path).join(f)).unwrap_or_default().replace('\n', " "))
        });
        let state =
            read("stat").rsplit_once(") ").map_or(String::new(), |(_, s)| s.chars().take(1).collect());
        text += &format!(
            "{pid}/{tid} {} {state} in {path} {freeze:?} at {}\n",
            read("comm"),
            read("stack").replace('\n', " ")
        );
    }
    children(pid).into_iter().map(describe).fold(text, |text, child| text + &child)
}
