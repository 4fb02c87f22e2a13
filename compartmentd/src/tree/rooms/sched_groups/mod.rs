//! `sched-groups/`: the files of groups and of their members.

mod group_files;
mod task_files;

use std::ffi::OsStr;

use super::groups::{Groups, Shown, files};
use super::{SCHED_GROUPS, guest_tasks};
use crate::errno::Refusal;
use crate::groups::{Caller, Controller, Group, GroupId, Process, Sched};
use crate::tree::Inode;
use crate::tree::room::Entry;

/// The room.
pub type SchedGroups = Groups<SchedFiles>;

files! {
    /// A file of a group. The order is part of the inode numbers, of at most 16.
    GroupFile {
        /// The policy.
        Scheduler = "scheduler", 0o644;
        /// The PID that stands for the group.
        Representative = "representative", 0o444;
        /// The slice.
        SliceUsec = "slice_usec", 0o644;
        /// How many members may be runnable at once.
        Vcpus = "vcpus", 0o644;
        /// The weight on the host.
        Nice = "nice", 0o644;
        /// The cap.
        CpuMax = "cpu.max", 0o644;
        /// Counters.
        CpuStat = "cpu.stat", 0o444;
        /// What was promised, and kept.
        CpuPromise = "cpu.promise", 0o444;
        /// The driver's parts.
        Mode = "mode", 0o444;
    }
}

files! {
    /// A file of a process. The order is part of the inode numbers, of at most 16.
    TaskFile {
        /// As in `/proc`.
        Comm = "comm", 0o444;
        /// As in `/proc`.
        Cmdline = "cmdline", 0o444;
        /// Guest nice; in group 0 the host's.
        Nice = "nice", 0o644;
        /// Guest class; in group 0 the host's.
        Policy = "policy", 0o644;
        /// Where it stands.
        State = "state", 0o444;
        /// What its policy knows of it.
        Sched = "sched", 0o444;
        /// Counters.
        Stat = "stat", 0o444;
        /// Sends a signal. Writable by all: who may is for `kill(2)`'s rule, not for modes.
        Signal = "signal", 0o222;
    }
}

/// What the files hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedFiles;

impl Shown for SchedFiles {
    type Kind = Sched;
    type GroupFile = GroupFile;
    type TaskFile = TaskFile;

    const ROOM: usize = SCHED_GROUPS;

    fn other(&self, controller: &Controller, name: &OsStr) -> Option<Inode> {
        guest_tasks::find(controller.guests(), name).ok()
    }

    fn others(&self, controller: &Controller) -> Vec<Entry> {
        guest_tasks::entries(controller.guests()).collect()
    }

    fn read_group(&self, controller: &Controller, group: &Group, file: GroupFile) -> Result<String, Refusal> {
        group_files::read(controller, group, file)
    }

    fn write_group(
        &self,
        controller: &Controller,
        group: &Group,
        caller: &Caller,
        file: GroupFile,
        value: &[u8],
    ) -> Result<(), Refusal> {
        group_files::write(controller, group, caller, file, value)
    }

    fn read_task(
        &self,
        controller: &Controller,
        (process, group): (&Process, GroupId),
        file: TaskFile,
    ) -> Result<String, Refusal> {
        task_files::read(controller, process, group, file)
    }

    fn write_task(
        &self,
        controller: &Controller,
        (process, group): (&Process, GroupId),
        caller: &Caller,
        file: TaskFile,
        value: &[u8],
    ) -> Result<(), Refusal> {
        task_files::write(controller, process, group, caller, file, value)
    }

    fn task_mode(&self, file: TaskFile, group: GroupId) -> u16 {
        // The host's policies are not ours to set.
        if (file, group) == (TaskFile::Policy, GroupId::HOST) {
            0o444
        } else {
            super::groups::Files::mode(file)
        }
    }
}

#[cfg(test)]
mod tests;
