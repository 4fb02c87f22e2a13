//! The files of a group.

use guest_sched::host::table::unpack_mode;

use super::GroupFile;
use crate::errno::{Refusal, Why};
use crate::groups::{Caller, Controller, Group};
use crate::tree::values::{
    format_cpu_max, format_cpu_stat, format_line, format_promise, format_slice, parse_cpu_max, parse_nice,
    parse_scheduler, parse_slice, parse_vcpus,
};

pub(super) fn read(controller: &Controller, group: &Group, file: GroupFile) -> Result<String, Refusal> {
    let config = group.config();
    Ok(match file {
        GroupFile::Scheduler => format_line(config.policy),
        GroupFile::Representative => {
            let starting =
                || Refusal::new(Why::Busy, format!("the worker of group {} is being started", group.name));
            format_line(group.representative().ok_or_else(starting)?)
        }
        GroupFile::SliceUsec => format_slice(config.slice_us),
        GroupFile::Vcpus => format_line(config.vcpus),
        GroupFile::Nice => format_line(config.nice),
        GroupFile::CpuMax => format_cpu_max(config.cpu_max),
        GroupFile::CpuStat => format_cpu_stat(&group.view()?.stat),
        GroupFile::CpuPromise => {
            let stat = group.view()?.stat;
            format_promise(&stat, controller.used_ns(group, stat.window_ns))
        }
        GroupFile::Mode => {
            let mode = unpack_mode(group.driver()?.stat().mode);
            let undecided = || Refusal::new(Why::Busy, "the worker has not chosen its parts yet");
            format_line(mode.ok_or_else(undecided)?)
        }
    })
}

pub(super) fn write(
    controller: &Controller,
    group: &Group,
    caller: &Caller,
    file: GroupFile,
    value: &[u8],
) -> Result<(), Refusal> {
    match file {
        GroupFile::Scheduler => controller.set_scheduler(caller, group, parse_scheduler(value)?),
        GroupFile::SliceUsec => {
            let slice_us = parse_slice(value)?;
            controller.configure(caller, group, |config| {
                config.slice_us = slice_us;
                Ok(())
            })
        }
        GroupFile::Vcpus => {
            let vcpus = parse_vcpus(value)?;
            controller.configure(caller, group, |config| {
                config.vcpus = vcpus;
                Ok(())
            })
        }
        GroupFile::Nice => {
            let nice = parse_nice(value)?;
            controller.configure(caller, group, |config| {
                check_weight(caller, config.nice, nice)?;
                config.nice = nice;
                Ok(())
            })
        }
        GroupFile::CpuMax => controller.configure(caller, group, |config| {
            config.cpu_max = parse_cpu_max(value, config.cpu_max)?;
            Ok(())
        }),
        GroupFile::Representative | GroupFile::CpuStat | GroupFile::CpuPromise | GroupFile::Mode => {
            Err(Refusal::new(Why::NotAllowed, "this file cannot be written"))
        }
    }
}

/// The group's weight counts on the host, where only root favours anything beyond nice 0.
fn check_weight(caller: &Caller, old: i8, new: i8) -> Result<(), Refusal> {
    if caller.is_root() || new >= 0 || new >= old {
        return Ok(());
    }
    Err(Refusal::new(Why::Other(libc::EACCES), "only root favours a group beyond nice 0"))
}
