//! Parking by `cgroup.freeze`, each task in a v2 cgroup of its own.
//!
//! ```text
//!   C                          the cgroup that the process came from
//!   `-- compartment.TAG.PID    a domain of its own, never frozen: no limit of C is escaped
//!       |-- u0                 a *unit*: threaded, one task, frozen to park it
//!       `-- u1
//! ```
//!
//! A task that is moved into the group gets its unit at once. A child is born into its parent's unit and shares it until one of the two
//! must be parked alone: programs whose many short children are never in each other's way pay nothing.
//! Moving is the mover's work; a task is never frozen while its move is under way, so that one that falls
//! asleep meanwhile is left alone (a frozen sleeper would see EINTR).
//!
//! Freezing takes a lock of the kernel that whoever else moves tasks or makes cgroups may hold for milliseconds. So it is taken once
//! for nothing before ([`Parker::brace`]), and then, most likely, at once.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::mover::{Mover, Step};
use super::{Outcome, Parker, Target};
use crate::host::cgroup;
use crate::host::table::{Parked, Table};
use crate::types::TaskId;

#[derive(Debug)]
struct Unit {
    process: i32,
    dir: PathBuf,
    freeze: Option<File>,
    nr_tasks: usize,
    is_pending: bool,
    is_frozen: bool,
    /// Who moves in, while that is pending.
    entering: Option<TaskId>,
}

impl Unit {
    fn freeze_file(&mut self) -> io::Result<&File> {
        let file = match self.freeze.take() {
            Some(file) => file,
            None => File::options().write(true).open(self.dir.join("cgroup.freeze"))?,
        };
        Ok(self.freeze.insert(file))
    }
}

#[derive(Debug)]
struct Process {
    dir: PathBuf,
    nr_units: usize,
    next_unit: u32,
}

#[derive(Clone, Debug)]
struct Task {
    target: Target,
    origin: Option<Rc<Path>>,
    unit: Option<u64>,
}

/// The way of parking by `cgroup.freeze`.
#[derive(Debug)]
pub struct Freezer {
    mount: PathBuf,
    tag: String,
    table: Arc<Table>,
    mover: Mover,
    tasks: HashMap<TaskId, Task>,
    units: HashMap<u64, Unit>,
    processes: HashMap<i32, Process>,
    nr_tasks_of: HashMap<i32, usize>,
    next_token: u64,
    outcomes: Vec<Outcome>,
}

impl Freezer {
    /// Starts with nobody. `tag` tells the directories of this group from those of others.
    ///
    /// # Errors
    /// If there is no v2 hierarchy, or no thread can be started.
    pub fn new(tag: &str, table: Arc<Table>) -> io::Result<Self> {
        let mount = cgroup::v2_mount().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        Ok(Self {
            mount,
            tag: tag.to_owned(),
            table,
            mover: Mover::start()?,
            tasks: HashMap::new(),
            units: HashMap::new(),
            processes: HashMap::new(),
            nr_tasks_of: HashMap::new(),
            next_token: 1,
            outcomes: Vec::new(),
        })
    }

    fn origin(&self, target: Target) -> io::Result<Rc<Path>> {
        let path = cgroup::v2_path(target.pid, target.tid)?;
        Ok(cgroup::dir(&self.mount, cgroup::above_ours(&path)).into())
    }

    /// Moves the task into a new unit of its own.
    fn separate(&mut self, id: TaskId) -> io::Result<()> {
        let task = self.tasks.get(&id).ok_or_else(no_task)?.clone();
        let origin = match &task.origin {
            Some(origin) => Rc::clone(origin),
            None => self.origin(task.target)?,
        };
        let target = task.target;
        let mut steps = Vec::with_capacity(5);
        let tag = &self.tag;
        let process = self.processes.entry(target.pid).or_insert_with(|| {
            let dir = origin.join(format!("{}{tag}.{}", cgroup::PREFIX, target.pid));
            steps.push(Step::Mkdir(dir.clone()));
            steps.push(Step::Write(dir.join("cgroup.procs"), target.pid.to_string()));
            Process { dir, nr_units: 0, next_unit: 0 }
        });
        let dir = process.dir.join(format!("u{}", process.next_unit));
        process.next_unit += 1;
        process.nr_units += 1;
        steps.push(Step::Mkdir(dir.clone()));
        steps.push(Step::Write(dir.join("cgroup.type"), "threaded".into()));
        steps.push(Step::Write(dir.join("cgroup.threads"), target.tid.to_string()));
        let unit = self.next_token;
        self.next_token += 1;
        self.units.insert(
            unit,
            Unit {
                process: target.pid,
                dir,
                freeze: None,
                nr_tasks: 1,
                is_pending: true,
                is_frozen: false,
                entering: Some(id),
            },
        );
        self.mover.queue(unit, steps);
        let task = self.tasks.get_mut(&id).ok_or_else(no_task)?;
        task.origin = Some(origin);
        if let Some(old) = task.unit.replace(unit) {
            self.leave_unit(old, id);
        }
        Ok(())
    }

    fn leave_unit(&mut self, unit: u64, id: TaskId) {
        let Some(u) = self.units.get_mut(&unit) else { return };
        u.nr_tasks -= 1;
        if u.entering == Some(id) {
            u.entering = None;
        }
        if u.nr_tasks == 0 && !u.is_pending {
            // Before the descriptor that is listed is closed.
            self.table.set_parked(id.index(), Parked::No);
            self.remove_unit(unit);
        } else if u.is_frozen
            && let Some(file) = &u.freeze
            && let Some((&other, _)) = self.tasks.iter().find(|(_, t)| t.unit == Some(unit))
        {
            // Those who are left there are parked as well: somebody has to be listed for the unit. The one that goes is not, in another place.
            self.table.set_parked(other.index(), Parked::Freeze(file.as_raw_fd()));
            self.table.set_parked(id.index(), Parked::No);
        }
    }

    fn remove_unit(&mut self, unit: u64) {
        let Some(u) = self.units.remove(&unit) else { return };
        if u.is_frozen
            && let Some(file) = &u.freeze
        {
            let _ = file.write_at(b"0", 0);
        }
        self.mover.queue(0, vec![Step::Rmdir(u.dir)]);
        if let Some(p) = self.processes.get_mut(&u.process) {
            p.nr_units -= 1;
        }
        self.remove_process_if_unused(u.process);
    }

    /// A process's directory goes when none of its threads and none of its units (which may hold children) is left.
    fn remove_process_if_unused(&mut self, pid: i32) {
        if !self.nr_tasks_of.contains_key(&pid)
            && self.processes.get(&pid).is_some_and(|p| p.nr_units == 0)
            && let Some(p) = self.processes.remove(&pid)
        {
            self.mover.queue(0, vec![Step::Rmdir(p.dir)]);
        }
    }

    fn insert(&mut self, task: Task) {
        *self.nr_tasks_of.entry(task.target.pid).or_insert(0) += 1;
        self.tasks.insert(task.target.id, task);
    }

    fn remove(&mut self, id: TaskId) -> Option<Task> {
        let task = self.tasks.remove(&id)?;
        let pid = task.target.pid;
        if let Some(n) = self.nr_tasks_of.get_mut(&pid) {
            *n -= 1;
            if *n == 0 {
                self.nr_tasks_of.remove(&pid);
            }
        }
        Some(task)
    }

    /// Gives whether that has changed anything by now.
    fn set_frozen(&mut self, unit: u64, id: TaskId, frozen: bool) -> io::Result<bool> {
        let u = self.units.get_mut(&unit).ok_or_else(no_task)?;
        if u.is_pending && frozen {
            u.entering = Some(id);
        }
        if u.is_pending || u.is_frozen == frozen {
            return Ok(false);
        }
        let file = u.freeze_file()?;
        if frozen {
            self.table.set_parked(id.index(), Parked::Freeze(file.as_raw_fd()));
        }
        file.write_at(if frozen { b"1" } else { b"0" }, 0)?;
        u.is_frozen = frozen;
        if !frozen {
            self.table.set_parked(id.index(), Parked::No);
        }
        Ok(true)
    }

    /// Whether the task's unit, frozen by us, has these lines in its `cgroup.events`.
    fn has_events(&self, id: TaskId, lines: &[&str]) -> bool {
        let unit = self.tasks.get(&id).and_then(|t| t.unit).and_then(|unit| self.units.get(&unit));
        unit.filter(|u| u.is_frozen && !u.is_pending).is_some_and(|u| {
            let events = std::fs::read_to_string(u.dir.join("cgroup.events")).unwrap_or_default();
            lines.iter().all(|line| events.lines().any(|l| l == *line))
        })
    }

    fn finish(&mut self, done: super::mover::Done) {
        let Some(u) = self.units.get_mut(&done.token) else {
            if let Err(error) = &done.result {
                tracing::debug!(%error, "a cgroup could not be cleaned up");
            }
            return;
        };
        u.is_pending = false;
        let entering = u.entering.take();
        if u.nr_tasks == 0 {
            self.remove_unit(done.token);
            return;
        }
        let Some(id) = entering else { return };
        self.outcomes.push(match done.result {
            Ok(()) => Outcome::Ready(id),
            Err(e) => Outcome::Failed(id, e),
        });
    }
}

fn no_task() -> io::Error {
    io::Error::from_raw_os_error(libc::ESRCH)
}

impl Parker for Freezer {
    fn is_per_thread(&self) -> bool {
        true
    }

    fn attach(&mut self, target: Target) {
        self.insert(Task { target, origin: None, unit: None });
    }

    fn prepare(&mut self, id: TaskId) -> bool {
        // A task that cannot be moved is found out when it is to be parked.
        self.separate(id).is_err()
    }

    fn forked(&mut self, parent: TaskId, child: Target) -> bool {
        let (origin, parent_unit) = match self.tasks.get(&parent) {
            Some(p) => (p.origin.clone(), p.unit),
            None => (None, None),
        };
        let mut unit = None;
        if parent_unit.is_some()
            && let Ok(path) = cgroup::v2_path(child.pid, child.tid)
        {
            // Where it was born is certain; where its parent was at that moment is not.
            let dir = cgroup::dir(&self.mount, &path);
            unit = self.units.iter().find(|(_, u)| u.dir == dir).map(|(&unit, _)| unit);
        }
        self.insert(Task { target: child, origin, unit });
        let Some(u) = unit.and_then(|unit| self.units.get_mut(&unit)) else { return false };
        u.nr_tasks += 1;
        u.is_frozen
    }

    fn brace(&mut self, id: TaskId) {
        let unit = self.tasks.get(&id).and_then(|t| t.unit);
        if let Some(u) = unit.and_then(|unit| self.units.get_mut(&unit))
            && !u.is_frozen
            && !u.is_pending
            && let Ok(file) = u.freeze_file()
        {
            let _ = file.write_at(b"0", 0);
        }
    }

    fn park(&mut self, id: TaskId) -> io::Result<()> {
        let unit = self.tasks.get(&id).ok_or_else(no_task)?.unit;
        match unit {
            Some(unit) if self.units.get(&unit).is_some_and(|u| u.nr_tasks == 1) => {
                self.set_frozen(unit, id, true).map(drop)
            }
            // A child that was born into its unit may be the one that is to run.
            _ => self.separate(id),
        }
    }

    fn resume(&mut self, id: TaskId) -> io::Result<bool> {
        let unit = self.tasks.get(&id).ok_or_else(no_task)?.unit;
        match unit.and_then(|unit| Some((unit, self.units.get(&unit)?))) {
            Some((unit, u)) if u.nr_tasks == 1 => self.set_frozen(unit, id, false),
            Some((_, u)) if u.is_frozen => self.separate(id).map(|()| false),
            _ => Ok(false),
        }
    }

    fn is_free(&self, id: TaskId) -> bool {
        let unit = self.tasks.get(&id).and_then(|t| t.unit);
        unit.and_then(|unit| self.units.get(&unit)).is_some_and(|u| u.is_pending || !u.is_frozen)
    }

    fn is_out(&self, id: TaskId) -> bool {
        self.has_events(id, &["frozen 1", "populated 1"])
    }

    fn is_lost(&self, id: TaskId) -> bool {
        self.has_events(id, &["populated 0"])
    }

    fn exited(&mut self, id: TaskId) {
        if let Some(task) = self.remove(id) {
            if let Some(unit) = task.unit {
                self.leave_unit(unit, id);
            }
            self.remove_process_if_unused(task.target.pid);
        }
        self.table.set_parked(id.index(), Parked::No);
    }

    fn detach(&mut self, id: TaskId) {
        let Some(task) = self.remove(id) else { return };
        if let Some(unit) = task.unit {
            if let Some(u) = self.units.get_mut(&unit)
                && u.nr_tasks == 1
                && u.is_frozen
                && let Some(file) = &u.freeze
            {
                let _ = file.write_at(b"0", 0);
                u.is_frozen = false;
            }
            // Where somebody else has put it, it stays.
            let is_ours = cgroup::v2_path(task.target.pid, task.target.tid)
                .is_ok_and(|path| cgroup::above_ours(&path) != path.trim_end_matches('/'));
            if let Some(origin) = task.origin.as_ref().filter(|_| is_ours) {
                let steps = vec![Step::Write(origin.join("cgroup.procs"), task.target.pid.to_string())];
                self.mover.queue(0, steps);
            }
            self.leave_unit(unit, id);
        }
        self.remove_process_if_unused(task.target.pid);
        self.table.set_parked(id.index(), Parked::No);
    }

    fn notifier(&self) -> Option<BorrowedFd<'_>> {
        Some(self.mover.notifier())
    }

    fn outcomes(&mut self) -> Vec<Outcome> {
        self.mover.hush();
        while let Some(done) = self.mover.next_done() {
            self.finish(done);
        }
        std::mem::take(&mut self.outcomes)
    }

    fn settle(&mut self) {
        while let Some(done) = self.mover.wait_done() {
            self.finish(done);
        }
    }
}
