//! Processes as `/proc` has them: `comm` and `cmdline` of all, the rest of those that are in no group.

use std::io;

use guest_sched::TaskState;
use host_sys::{process, sched};

use crate::errno::{Refusal, Why, no_process};

fn read(pid: i32, file: &str) -> Result<String, Refusal> {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).map_err(|_| no_process(pid))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Gives `comm` as `/proc` has it, its newline included.
///
/// # Errors
/// ESRCH.
pub fn comm(pid: i32) -> Result<String, Refusal> {
    read(pid, "comm")
}

/// Gives `cmdline` as `/proc` has it: each argument ended by a zero byte.
///
/// # Errors
/// ESRCH.
pub fn cmdline(pid: i32) -> Result<String, Refusal> {
    read(pid, "cmdline")
}

/// Gives the nice value.
///
/// # Errors
/// ESRCH.
pub fn nice(pid: i32) -> Result<i8, Refusal> {
    process::stat(pid).map(|stat| stat.nice).map_err(|_| no_process(pid))
}

/// Sets the nice value of every thread.
///
/// # Errors
/// ESRCH, EPERM.
pub fn set_nice(pid: i32, nice: i8) -> Result<(), Refusal> {
    for tid in process::threads(pid).map_err(|_| no_process(pid))? {
        let set = sched::get(tid).and_then(|mut attr| {
            attr.nice = nice.into();
            sched::set(tid, &attr)
        });
        match set {
            // A thread may end meanwhile.
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) || tid == pid => return Err(e.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Gives the policy in the words of the tree, with `idle` and `deadline` for what only the host knows.
///
/// # Errors
/// ESRCH.
pub fn policy(pid: i32) -> Result<String, Refusal> {
    let attr = sched::get(pid).map_err(|_| no_process(pid))?;
    Ok(match attr.policy {
        0 => "normal\n".into(),
        1 => format!("fifo {}\n", attr.priority),
        2 => format!("rr {}\n", attr.priority),
        3 => "batch\n".into(),
        5 => "idle\n".into(),
        6 => "deadline\n".into(),
        other => format!("{other}\n"),
    })
}

/// Tells whether the first thread is runnable; the host does not say who of the runnable ones runs.
///
/// # Errors
/// ESRCH.
pub fn state(pid: i32) -> Result<TaskState, Refusal> {
    let stat = process::stat(pid).map_err(|_| no_process(pid))?;
    Ok(if stat.is_runnable() { TaskState::Running } else { TaskState::Sleeping })
}

/// Formats what the host knows of what `sched` shows.
///
/// # Errors
/// ESRCH.
pub fn sched(pid: i32) -> Result<String, Refusal> {
    let text = read(pid, "stat")?;
    // Fields 18 and 19, counted after the name, which may hold anything.
    let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let mut fields = rest.split_ascii_whitespace().skip(15);
    let mut next = || fields.next()?.parse::<i64>().ok();
    match (next(), next()) {
        (Some(prio), Some(nice)) => Ok(format!("static_prio {}\nprio {}\n", 120 + nice, 100 + prio)),
        _ => Err(Refusal::new(Why::Broken, "unreadable /proc/PID/stat")),
    }
}

/// CPU time and waiting time in nanoseconds, and switches, of all threads.
///
/// # Errors
/// ESRCH.
pub fn stat(pid: i32) -> Result<(u64, u64, u64), Refusal> {
    let usage = process::cpu_time(pid).map_err(|_| no_process(pid))?;
    let (mut wait, mut switches) = (0, 0);
    for tid in process::threads(pid).map_err(|_| no_process(pid))? {
        let Ok((waited, switched)) = thread_stat(pid, tid) else { continue };
        wait += waited;
        switches += switched;
    }
    Ok((usage, wait, switches))
}

fn thread_stat(pid: i32, tid: i32) -> io::Result<(u64, u64)> {
    let (_, wait) = process::SchedStat::open(pid, tid)?.read()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status"))?;
    let lines = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
    Ok((wait, lines.filter_map(|(_, number)| number.trim().parse::<u64>().ok()).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_shown() {
        let me = std::process::id() as i32;

        assert!(comm(me).expect("exists").ends_with('\n'));
        assert!(policy(me).is_ok() && sched(me).expect("exists").starts_with("static_prio 1"));
        assert!(stat(me).expect("exists").0 > 0);
        assert_eq!(nice(0x3fff_ffff).map_err(|e| e.errno()), Err(libc::ESRCH));
    }
}
