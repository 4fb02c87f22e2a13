//! Taking processes in and letting them go.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use host_sys::process;
use host_sys::sched;

use super::members::{CpuClock, Task, Thread};
use super::{MAX_TASKS, Worker};
use crate::host::cgroup;
use crate::host::park::Target;
use crate::host::proto::{Event, GuestClass};
use crate::host::table::{HostParams, Table};
use crate::types::{Class, Nanos, Nice, RtPriority, TaskId, TaskParams};

const SCHED_DEADLINE: u8 = 6;

/// A refusal, as the daemon's caller shall see it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) errno: i32,
    pub(super) reason: String,
}

impl Refusal {
    pub(super) fn new(errno: i32, reason: impl Into<String>) -> Self {
        Self { errno, reason: reason.into() }
    }
}

impl From<io::Error> for Refusal {
    fn from(e: io::Error) -> Self {
        Self { errno: e.raw_os_error().unwrap_or(libc::EIO), reason: e.to_string() }
    }
}

/// What each thread of a process had before it joined, and what the guest gave it instead; with the first thread's for those that are not named.
type Before = HashMap<i32, (HostParams, TaskParams)>;

/// Where a worker that starts keeps what its predecessor has left, until it has taken that over: it may die meanwhile as well.
const BEFORE: &str = "members.before";

/// A thread in that file: process, thread, start time, what the host gave it, nice and class of the guest.
type Kept = (i32, i32, u64, HostParams, (i8, GuestClass));

/// What an earlier worker of the group has left.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Processes with their start times.
    processes: Vec<(i32, u64, Option<Before>)>,
}

impl Found {
    /// Reads the table and undoes what is left of the earlier worker's cgroups.
    pub(super) fn read(table: &Table, tag: &str, state_dir: &Path) -> Self {
        let file = state_dir.join(BEFORE);
        let mut kept: Vec<Kept> =
            std::fs::read(&file).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        for m in table.snapshot().members.into_iter().filter(|m| !m.is_group) {
            kept.push((m.pid, m.tid, m.start_time, m.host, (m.nice, m.class)));
        }
        if !kept.is_empty()
            && let Err(error) = serde_json::to_vec(&kept).map_err(io::Error::from).and_then(|b| {
                std::fs::write(file.with_extension("new"), b)?;
                std::fs::rename(file.with_extension("new"), &file)
            })
        {
            tracing::warn!(%error, "should this worker die before it has taken its members back, they run free");
        }
        let mut known: HashMap<i32, (u64, Before)> = HashMap::new();
        for (pid, tid, start_time, host, (guest_nice, class)) in kept {
            let nice_of_guest = Nice::new(i32::from(guest_nice)).unwrap_or_default();
            let params = TaskParams { nice: nice_of_guest, class: to_class(class).unwrap_or_default() };
            let entry = known.entry(pid).or_default();
            if entry.0 != start_time {
                *entry = (start_time, Before::new());
            }
            entry.1.insert(tid, (host, params));
            entry.1.entry(pid).or_insert((host, params));
        }
        let mut processes: Vec<_> =
            known.iter().map(|(&pid, (start, before))| (pid, *start, Some(before.clone()))).collect();
        if let Some(mount) = cgroup::v2_mount() {
            for dir in cgroup::find_ours(&mount, &format!("{}{tag}.", cgroup::PREFIX)) {
                for pid in cgroup::undo(&dir).unwrap_or_default() {
                    if !known.contains_key(&pid)
                        && let Ok(stat) = process::stat(pid)
                    {
                        // A child of a member that the earlier worker had not heard of yet.
                        let parent = known.get(&stat.ppid).and_then(|k| k.1.get(&stat.ppid));
                        let before = parent.map(|parent| Before::from([(pid, *parent)]));
                        processes.push((pid, stat.start_time, before));
                    }
                }
            }
        }
        Self { processes }
    }
}

/// Reads a class as the protocol has it.
pub(super) fn to_class(class: GuestClass) -> Option<Class> {
    Some(match class {
        GuestClass::Normal => Class::Normal,
        GuestClass::Batch => Class::Batch,
        GuestClass::Fifo(p) => Class::Fifo(RtPriority::new(u32::from(p))?),
        GuestClass::Rr(p) => Class::Rr(RtPriority::new(u32::from(p))?),
    })
}

/// Whether a process has a thread that goes on. The first one may have ended before the others, or may just be replaced by another one.
fn has_living_thread(pid: i32) -> bool {
    let is_living = |tid| process::thread_stat(pid, tid).is_ok_and(|stat| !stat.is_exiting());
    process::threads(pid).is_ok_and(|tids| tids.into_iter().any(is_living))
}

/// What the host gives a thread now; `usual_runtime` is the slice that one has that never asked for any.
fn host_params(tid: i32, usual_runtime: u64) -> io::Result<HostParams> {
    let attr = sched::get(tid)?;
    let is_wished = matches!(attr.policy, 0 | 3) && attr.runtime != usual_runtime;
    Ok(HostParams {
        nice: attr.nice as i8,
        policy: attr.policy as u8,
        rt_priority: attr.priority as u8,
        is_reset_on_fork: attr.flags & sched::RESET_ON_FORK != 0,
        runtime_ns: if is_wished { u32::try_from(attr.runtime).unwrap_or(0) } else { 0 },
    })
}

/// The guest gives a task what the host had given it.
fn guest_params(host: HostParams) -> TaskParams {
    let class = match (host.policy, RtPriority::new(u32::from(host.rt_priority))) {
        (1, Some(p)) => Class::Fifo(p),
        (2, Some(p)) => Class::Rr(p),
        (3 | 5, _) => Class::Batch,
        _ => Class::Normal,
    };
    TaskParams { nice: Nice::new(i32::from(host.nice)).unwrap_or_default(), class }
}

fn set_host_params(tid: i32, params: HostParams) -> io::Result<()> {
    let attr = sched::Attr {
        policy: u32::from(params.policy),
        nice: i32::from(params.nice),
        priority: u32::from(params.rt_priority),
        flags: if params.is_reset_on_fork { sched::RESET_ON_FORK } else { 0 },
        runtime: u64::from(params.runtime_ns),
        ..sched::Attr::default()
    };
    match sched::set(tid, &attr) {
        // An ordinary user may set that flag, and not take it away.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) && !params.is_reset_on_fork => {
            sched::set(tid, &sched::Attr { flags: sched::RESET_ON_FORK, ..attr })
        }
        result => result,
    }
}

impl Worker {
    /// Takes the members of an earlier worker back in.
    pub(super) fn take_back(&mut self, found: Found) {
        let mut members = 0;
        let is_restart = !found.processes.is_empty();
        for (pid, start_time, before) in found.processes {
            if self.take_in(pid, start_time, before.as_ref()).is_ok() {
                members += 1;
            }
        }
        let _ = std::fs::remove_file(self.state_dir.join(BEFORE));
        if is_restart {
            tracing::info!(members, "members of an earlier worker were taken back");
            self.restarted = Some(Event::Restarted { members });
        }
    }

    /// Takes in a process with all its threads.
    pub(super) fn take_in(
        &mut self,
        pid: i32,
        start_time: u64,
        before: Option<&Before>,
    ) -> Result<(), Refusal> {
        const TRIES: u32 = 10;
        let mut tries = 0;
        loop {
            let taken = self.try_to_take_in(pid, start_time, before);
            tries += 1;
            match taken {
                // While a thread that is not the first one executes a program, none can be found for a moment.
                Err(Refusal { errno: libc::ESRCH, .. }) if tries < TRIES && has_living_thread(pid) => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                taken => return taken,
            }
        }
    }

    fn try_to_take_in(&mut self, pid: i32, start_time: u64, before: Option<&Before>) -> Result<(), Refusal> {
        let stat = process::stat(pid)?;
        if stat.start_time != start_time || (stat.is_exiting() && !has_living_thread(pid)) {
            return Err(Refusal::new(libc::ESRCH, "the process has ended"));
        }
        if stat.is_kernel_thread() {
            return Err(Refusal::new(libc::EOPNOTSUPP, "it is a thread of the kernel"));
        }
        if host_params(pid, self.usual_runtime)?.policy == SCHED_DEADLINE {
            return Err(Refusal::new(
                libc::EOPNOTSUPP,
                "a deadline process cannot be parked without breaking its promise",
            ));
        }
        if !self.members.threads_of(pid).is_empty() {
            return Err(Refusal::new(libc::EEXIST, "the process is a member already"));
        }
        let mut done = Vec::new();
        // A thread that is started meanwhile is found in the next round, or is watched by inheritance.
        loop {
            let new: Vec<i32> = process::threads(pid)?.into_iter().filter(|t| !done.contains(t)).collect();
            if new.is_empty() {
                break;
            }
            for tid in new {
                done.push(tid);
                self.breathe(done.len());
                match self.parts.sensor.attach(tid) {
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(e) => {
                        done.iter().for_each(|&t| self.parts.sensor.detach(t));
                        return Err(Refusal::new(
                            e.raw_os_error().unwrap_or(libc::EIO),
                            format!("it cannot be watched: {e}"),
                        ));
                    }
                    Ok(()) => {}
                }
            }
        }
        self.tick_now();
        if let Err(refusal) = self.enter_tasks(pid, start_time, &done, before) {
            self.forget_process(pid);
            done.iter().for_each(|&t| self.parts.sensor.exited(t));
            return Err(refusal);
        }
        self.enter_envelope(pid);
        let tids = self.members.threads_of(pid).to_vec();
        let group = HostParams { nice: self.config.nice, ..HostParams::default() };
        for tid in tids {
            if let Err(error) = set_host_params(tid, group) {
                tracing::debug!(tid, %error, "the host's nice is not set");
            }
        }
        Ok(())
    }

    fn enter_tasks(
        &mut self,
        pid: i32,
        start_time: u64,
        tids: &[i32],
        before: Option<&Before>,
    ) -> Result<(), Refusal> {
        let per_thread = self.parts.parker.is_per_thread();
        let is_single = tids.len() == 1;
        for (nr, &tid) in tids.iter().enumerate() {
            self.breathe(nr);
            let Ok(stat) = process::thread_stat(pid, tid) else { continue };
            if stat.is_exiting() {
                continue;
            }
            let now = self.tick_now();
            let is_runnable = stat.is_runnable();
            if !per_thread && let Some(&first) = self.members.threads_of(pid).first() {
                let Some(task) = self.members.thread(first).map(|t| t.task) else { continue };
                self.members.insert_thread(
                    tid,
                    Thread { task, pid, is_runnable: false, last_record: now, watched_since: now },
                );
                if let Some(task) = self.members.task_mut(task) {
                    task.nr_threads += 1;
                }
                if is_runnable && self.members.task(task).is_some_and(|t| !t.is_arriving) {
                    self.set_thread_runnable(tid, true, crate::Sleep::default());
                }
                continue;
            }
            let (host, params) = match before.and_then(|before| before.get(&tid).or_else(|| before.get(&pid)))
            {
                Some(before) => *before,
                None => {
                    let host = host_params(tid, self.usual_runtime)?;
                    (host, guest_params(host))
                }
            };
            let clock =
                if is_single || !per_thread { CpuClock::process(pid)? } else { CpuClock::thread(pid, tid)? };
            let id = self.members.reserve(MAX_TASKS).ok_or_else(|| {
                Refusal::new(libc::ENOSPC, format!("a group has at most {MAX_TASKS} tasks"))
            })?;
            self.parts.parker.attach(Target { id, pid, tid });
            if let Err(e) = self.dispatch.add(id, params, false, now) {
                self.parts.parker.detach(id);
                self.members.unreserve(id);
                return Err(Refusal::new(libc::EINVAL, e.to_string()));
            }
            self.members.insert(
                id,
                Task {
                    pid,
                    tid,
                    start_time,
                    host,
                    clock,
                    usage: Nanos::ZERO,
                    wait: Nanos::ZERO,
                    nr_switches: 0,
                    parked_since: None,
                    leaving_since: now,
                    charged_at: now,
                    nr_runnable: 0,
                    nr_threads: 1,
                    is_arriving: true,
                    has_short_slice: false,
                    is_doubtful: false,
                    resumed_at: (Nanos::ZERO, Nanos::ZERO),
                },
            );
            if self.parts.parker.prepare(id) {
                self.arrived(id);
            }
            self.publish_task(id);
        }
        if self.members.threads_of(pid).is_empty() {
            return Err(Refusal::new(libc::ESRCH, "the process has ended"));
        }
        Ok(())
    }

    /// A task that joined can be parked now: from here on the policy schedules it.
    pub(super) fn arrived(&mut self, id: TaskId) {
        self.tick_now();
        let Some(task) = self.members.task_mut(id).filter(|t| t.is_arriving) else { return };
        task.is_arriving = false;
        let pid = task.pid;
        // What it used on its way in was the host's affair, and the time was no sleep, which would earn it credit.
        let _ = task.clock.step();
        task.charged_at = self.now;
        let mut nr_runnable = 0;
        for tid in self.members.threads_of(pid).to_vec() {
            let Some(thread) = self.members.thread_mut(tid).filter(|t| t.task == id) else { continue };
            thread.last_record = self.now;
            thread.is_runnable = process::thread_stat(pid, tid).is_ok_and(|s| s.is_runnable());
            nr_runnable += u32::from(thread.is_runnable);
        }
        if let Some(task) = self.members.task_mut(id) {
            task.nr_runnable = nr_runnable;
        }
        if let Ok(info) = self.dispatch.info(id) {
            let again = self
                .dispatch
                .remove(id, self.now)
                .and_then(|()| self.dispatch.add(id, info.params, nr_runnable > 0, self.now));
            if let Err(error) = again {
                tracing::debug!(%error, "arrived");
            }
        }
    }

    fn enter_envelope(&mut self, pid: i32) {
        let Some(envelope) = &mut self.parts.envelope else { return };
        if let Err(error) = envelope.enter(pid) {
            self.give_up_envelope(pid, &error.to_string());
        }
    }

    fn give_up_envelope(&mut self, pid: i32, reason: &str) {
        tracing::warn!(pid, reason, "the group goes on without an envelope");
        self.report(Event::Degraded { reason: format!("no envelope any more: {reason}") });
        self.parts.give_up_envelope();
        self.dispatch.set_handover(self.parts.mode.handover);
        self.publish_stat();
    }

    /// A member that is not in the envelope any more would have a weight of its own.
    pub(super) fn audit_envelope(&mut self, pid: i32) {
        if self.parts.envelope.as_ref().is_some_and(|envelope| !envelope.holds(pid)) {
            self.give_up_envelope(pid, "a member has begun a session of its own");
        }
    }

    /// Strikes out the tasks of a process, and resumes them.
    fn forget_process(&mut self, pid: i32) -> Vec<(i32, Task)> {
        let mut gone = Vec::new();
        for (nr, id) in self.members.tasks_of(pid).into_iter().enumerate() {
            self.breathe(nr);
            self.charge(id);
            if let Err(error) = self.dispatch.remove(id, self.now) {
                tracing::debug!(%error, "remove");
            }
            self.parts.parker.detach(id);
            self.table.clear(id.index());
            let tids: Vec<i32> = self
                .members
                .threads_of(pid)
                .iter()
                .copied()
                .filter(|&t| self.members.thread(t).is_some_and(|t| t.task == id))
                .collect();
            for &tid in &tids {
                self.members.remove_thread(tid);
            }
            if let Some(task) = self.members.remove(id) {
                gone.extend(tids.first().map(|&tid| (tid, task)));
            }
        }
        gone
    }

    /// A thread that was not the first one has executed a program: it has the first one's number now, but is where it was itself, with its
    /// own clock and under its own watch. Takes the process in anew.
    pub(super) fn retake(&mut self, pid: i32, tid: i32) {
        let Some(task) = self.members.thread(tid).and_then(|t| self.members.task(t.task)) else { return };
        let (start_time, host) = (task.start_time, task.host);
        let params = self.members.thread(tid).and_then(|t| self.dispatch.info(t.task).ok()).map(|i| i.params);
        let before = Before::from([(pid, (host, params.unwrap_or_default()))]);
        let tids = self.members.threads_of(pid).to_vec();
        self.forget_process(pid);
        self.unwatch(&tids);
        if let Err(Refusal { errno, reason }) = self.take_in(pid, start_time, Some(&before)) {
            if let Some(envelope) = &mut self.parts.envelope {
                envelope.leave(pid);
            }
            self.report(if errno == libc::ESRCH {
                Event::Exited { pid }
            } else {
                Event::Escaped { pid, reason }
            });
        }
    }

    /// Lets a process go, everything restored that joining has changed.
    pub(super) fn release(&mut self, pid: i32) {
        const AT_MOST: Nanos = Nanos::from_secs(2);
        self.begin_release(pid);
        self.beat(self.now + AT_MOST);
        self.parts.parker.settle();
        self.tick_now();
    }

    /// As [`Worker::release`], but what is done in the background may still be under way.
    pub(super) fn begin_release(&mut self, pid: i32) {
        if self.unnest(pid) {
            return;
        }
        let tids = self.members.threads_of(pid).to_vec();
        let gone = self.forget_process(pid);
        self.unwatch(&tids);
        let is_per_thread = self.parts.parker.is_per_thread();
        for (_, task) in &gone {
            let own = [task.tid];
            for &tid in if is_per_thread { &own[..] } else { &tids[..] } {
                if let Err(error) = set_host_params(tid, task.host) {
                    tracing::debug!(tid, %error, "the host's nice is not restored");
                }
            }
        }
        if let Some(envelope) = &mut self.parts.envelope {
            envelope.leave(pid);
        }
    }

    /// Watches these threads no more. Others that were watched through them may then be watched no more either, if the host does not let us.
    fn unwatch(&mut self, tids: &[i32]) {
        for (tid, error) in self.parts.sensor.detach_all(tids) {
            tracing::warn!(tid, %error, "a member's thread cannot be watched any more");
            self.report(Event::Degraded {
                reason: format!("thread {tid} cannot be watched any more: {error}"),
            });
        }
    }

    /// The group's nice has changed: the host's nice of its members follows.
    pub(super) fn apply_group_nice(&mut self) {
        let params = HostParams { nice: self.config.nice, ..HostParams::default() };
        for pid in self.members.processes() {
            for &tid in self.members.threads_of(pid) {
                if !self.members.thread(tid).is_some_and(|t| self.is_inner(t.task)) {
                    let _ = set_host_params(tid, params);
                }
            }
        }
        if let Some(envelope) = &mut self.parts.envelope
            && let Err(error) = envelope.set_nice(self.config.nice)
        {
            tracing::warn!(%error, "the envelope's weight is not set");
        }
    }

    /// A member that has just woken is given short slices by the host (Linux 6.12), so that it gets its turn soon among the
    /// host's other processes as well; one that comes back from being parked keeps them only if the policy holds it to be interactive.
    pub(super) fn tune_slice(&mut self, id: TaskId, is_short: bool) {
        const SHORT_NS: u64 = 100_000;
        let nice = self.config.nice;
        let Some(task) = self.members.task_mut(id) else { return };
        if task.has_short_slice == is_short {
            return;
        }
        task.has_short_slice = is_short;
        // Setting the slice sets the nice value too: what somebody else has set meanwhile is not to be lost.
        self.virtualise_nice(id);
        let Some(task) = self.members.task(id) else { return };
        let runtime = if is_short { SHORT_NS } else { 0 };
        if let Err(error) =
            sched::set(task.tid, &sched::Attr { nice: i32::from(nice), runtime, ..sched::Attr::default() })
        {
            tracing::debug!(tid = task.tid, %error, "the host's slice is not set");
        }
    }

    /// A member (or somebody else) has changed a member's nice on the host: that is meant for the guest. The host's goes back to the
    /// group's.
    pub(super) fn virtualise_nice(&mut self, id: TaskId) {
        let Some(task) = self.members.task_mut(id) else { return };
        let Ok(nice) = sched::nice(task.tid) else { return };
        if nice == self.config.nice {
            return;
        }
        task.host.nice = nice;
        let tid = task.tid;
        let params = HostParams { nice: self.config.nice, ..HostParams::default() };
        if set_host_params(tid, params).is_ok()
            && let Some(guest) = Nice::new(i32::from(nice))
            && let Err(error) = self.dispatch.set_nice(id, guest, self.now)
        {
            tracing::debug!(%error, "nice");
        }
    }
}
