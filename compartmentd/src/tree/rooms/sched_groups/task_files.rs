//! The files of a process, in a group and in none.

use host_sys::Pidfd;

use super::TaskFile;
use crate::errno::{Refusal, Why, no_process};
use crate::groups::{Caller, Controller, GroupId, Process, TaskView, host_view};
use crate::tree::rooms::groups::TaskKey;
use crate::tree::values::{
    format_class, format_line, format_sched, format_task_stat, parse_class, parse_nice, parse_signal,
    state_word,
};

pub(super) fn read(
    controller: &Controller,
    process: &Process,
    group: GroupId,
    file: TaskFile,
) -> Result<String, Refusal> {
    let pid = process.pid;
    match file {
        TaskFile::Comm => host_view::comm(pid),
        TaskFile::Cmdline => host_view::cmdline(pid),
        TaskFile::Signal => Err(Refusal::new(Why::NotAllowed, "this file cannot be read")),
        _ if group == GroupId::HOST => read_host(pid, file),
        _ => Ok(read_member(&member(controller, process, group)?, file)),
    }
}

fn read_host(pid: i32, file: TaskFile) -> Result<String, Refusal> {
    match file {
        TaskFile::Nice => host_view::nice(pid).map(format_line),
        TaskFile::Policy => host_view::policy(pid),
        TaskFile::State => host_view::state(pid).map(|state| format_line(state_word(state))),
        TaskFile::Sched => host_view::sched(pid),
        _ => host_view::stat(pid).map(|(usage, wait, switches)| format_task_stat(usage, wait, switches)),
    }
}

fn read_member(task: &TaskView, file: TaskFile) -> String {
    match file {
        TaskFile::Nice => format_line(task.nice),
        TaskFile::Policy => format_class(task.class),
        TaskFile::State => format_line(state_word(task.state)),
        TaskFile::Sched => format_sched(task),
        _ => format_task_stat(task.usage_ns, task.wait_ns, task.nr_switches),
    }
}

fn member(controller: &Controller, process: &Process, id: GroupId) -> Result<TaskView, Refusal> {
    let task = controller.group(id)?.view()?.tasks.get(&process.pid).copied();
    task.ok_or_else(|| Refusal::new(Why::NoProcess, format!("process {} is no member any more", process.pid)))
}

pub(super) fn write(
    controller: &Controller,
    process: &Process,
    group: GroupId,
    caller: &Caller,
    file: TaskFile,
    value: &[u8],
) -> Result<(), Refusal> {
    match (file, group) {
        (TaskFile::Signal, _) => signal(controller, process, caller, parse_signal(value)?),
        (TaskFile::Nice, GroupId::HOST) => {
            let nice = parse_nice(value)?;
            let old = host_view::nice(process.pid)?;
            caller.check_may_renice(controller.host(), process.pid, old, nice)?;
            host_view::set_nice(process.pid, nice)
        }
        (TaskFile::Nice, id) => {
            controller.set_member_nice(caller, &*controller.group(id)?, process, parse_nice(value)?)
        }
        (TaskFile::Policy, GroupId::HOST) => Err(Refusal::new(
            Why::NotAllowed,
            "the policy of a process in no group is the host's; see chrt(1)",
        )),
        (TaskFile::Policy, id) => {
            controller.set_member_class(caller, &*controller.group(id)?, process, parse_class(value)?)
        }
        _ => Err(Refusal::new(Why::NotAllowed, "this file cannot be written")),
    }
}

fn signal(controller: &Controller, process: &Process, caller: &Caller, signal: i32) -> Result<(), Refusal> {
    // The handle first, then the checks: what was checked is what the handle names.
    let pidfd = Pidfd::open(process.pid).map_err(|_| no_process(process.pid))?;
    let is_same = controller.host().process(process.pid).is_some_and(|now| TaskKey::of(process).is(&now));
    if !is_same {
        return Err(no_process(process.pid));
    }
    caller.check_may_signal(controller.host(), process.pid)?;
    Ok(pidfd.signal(signal)?)
}
