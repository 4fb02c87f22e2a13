//! What is read.

use super::{GroupFile, TaskFile};
use crate::errno::{Refusal, Why};
use crate::groups::{GroupId, Process, host_view};
use crate::pools::{Pool, Pools, host_mem};
use crate::tree::values::{
    format_host_stat, format_limit, format_line, format_mem_events, format_mem_stat, format_member_stat,
    format_pressure, format_tiers, format_unmanaged,
};

pub(super) fn read_group(pool: &Pool, file: GroupFile) -> Result<String, Refusal> {
    let config = pool.config();
    Ok(match file {
        GroupFile::Vm => format_line(config.vm),
        GroupFile::Representative => {
            let starting =
                || Refusal::new(Why::Busy, format!("the worker of group {} is being started", pool.name));
            format_line(pool.representative().ok_or_else(starting)?)
        }
        GroupFile::Max => format_limit(config.max),
        GroupFile::Current => format_line(pool.view()?.stat.current),
        GroupFile::SwapMax => format_limit(config.swap_max),
        GroupFile::SwapCurrent => format_line(pool.view()?.stat.swap_current),
        GroupFile::SwapTiers => format_tiers(&config.tiers),
        GroupFile::Stat => {
            let view = pool.view()?;
            format_mem_stat(&view.stat, view.members.len())
        }
        GroupFile::Events => format_mem_events(&pool.view()?.stat),
        GroupFile::Pressure => format_pressure(&pool.view()?.stat),
        GroupFile::Reclaim => return Err(Refusal::new(Why::NotAllowed, "this file cannot be read")),
    })
}

pub(super) fn read_task(
    pools: &Pools,
    process: &Process,
    group: GroupId,
    file: TaskFile,
) -> Result<String, Refusal> {
    match file {
        TaskFile::Comm => host_view::comm(process.pid),
        TaskFile::Cmdline => host_view::cmdline(process.pid),
        _ if group == GroupId::HOST => read_host(process.pid, file),
        _ => read_member(&*pools.group(group)?, process, file),
    }
}

fn read_host(pid: i32, file: TaskFile) -> Result<String, Refusal> {
    let mem = host_mem::read(pid)?;
    Ok(match file {
        TaskFile::Current => format_line(mem.resident),
        TaskFile::SwapCurrent => format_line(mem.swapped),
        TaskFile::Stat => format_host_stat(&mem),
        // The host pages it all, as far as anybody does.
        _ => String::new(),
    })
}

fn read_member(pool: &Pool, process: &Process, file: TaskFile) -> Result<String, Refusal> {
    if file == TaskFile::Unmanaged {
        return Ok(format_unmanaged(&pool.driver()?.unmanaged(process.pid)?));
    }
    let member = pool.view()?.members.get(&process.pid).copied().ok_or_else(|| {
        Refusal::new(Why::NoProcess, format!("process {} is no member any more", process.pid))
    })?;
    Ok(match file {
        TaskFile::Current => format_line(member.resident.saturating_add(member.unmanaged)),
        TaskFile::SwapCurrent => format_line(member.swapped),
        _ => format_member_stat(&member),
    })
}
