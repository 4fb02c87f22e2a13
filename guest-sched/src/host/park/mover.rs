//! A thread that moves tasks between cgroups.
//!
//! Moving waits for a grace period of the kernel (2 to 9 ms when none was near), too long for the loop that
//! decides who runs. A job is a list of steps; it ends at the first that fails.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// One step of a job.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Makes a directory; one that exists is as good.
    Mkdir(PathBuf),
    /// Writes a value into a file.
    Write(PathBuf, String),
    /// Removes an empty directory; one that is gone is as good. One that is not empty yet is tried again later.
    Rmdir(PathBuf),
}

/// What became of the job with this token.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) token: u64,
    pub(crate) result: io::Result<()>,
}

/// What the thread is given: a token, and what to do.
type Job = (u64, Vec<Step>);

/// The thread.
#[derive(Debug)]
pub(crate) struct Mover {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    ready: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    nr_pending: usize,
}

impl Mover {
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let (replies, done) = channel();
        let ready = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let bell = Arc::clone(&ready);
        let thread = thread::Builder::new().name("mover".into()).spawn(move || {
            let _ = host_sys::sched::favour_self();
            let mut leftovers = Leftovers::default();
            while let Some((token, steps)) = leftovers.wait(&queue) {
                let result = steps.iter().try_for_each(|step| carry_out(step, &mut leftovers));
                let _ = replies.send(Done { token, result });
                let _ = bell.write(1);
            }
        })?;
        Ok(Self { jobs: Some(jobs), done, ready, thread: Some(thread), nr_pending: 0 })
    }

    pub(crate) fn queue(&mut self, token: u64, steps: Vec<Step>) {
        if let Some(jobs) = &self.jobs
            && jobs.send((token, steps)).is_ok()
        {
            self.nr_pending += 1;
        }
    }

    /// Takes note that the notifier has spoken. To be called before the finished jobs are taken, so that none is missed.
    pub(crate) fn hush(&self) {
        let _ = self.ready.read();
    }

    /// Gives the next finished job, without waiting.
    pub(crate) fn next_done(&mut self) -> Option<Done> {
        let done = self.done.try_recv().ok()?;
        self.nr_pending -= 1;
        Some(done)
    }

    /// Waits for the next finished job; `None` if none is under way.
    pub(crate) fn wait_done(&mut self) -> Option<Done> {
        if self.nr_pending == 0 {
            return None;
        }
        let done = self.done.recv().ok()?;
        self.nr_pending -= 1;
        Some(done)
    }

    pub(crate) fn notifier(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Directories that were not empty when they were to go: tasks are just leaving them, or were born there unnoticed and end soon.
#[derive(Debug, Default)]
struct Leftovers {
    dirs: VecDeque<PathBuf>,
    nr_rounds: u32,
}

impl Leftovers {
    /// How many are tried before each job.
    const AT_ONCE: usize = 8;
    /// The first pause without jobs; each is twice as long as the last.
    const PAUSE: Duration = Duration::from_millis(1);
    /// After so many pauses only jobs give another try: an idle group wakes nobody.
    const ROUNDS: u32 = 12;

    fn add(&mut self, dir: PathBuf) {
        self.dirs.push_back(dir);
        self.nr_rounds = 0;
    }

    /// Gives the next job, or nothing when there will be none; removes directories meanwhile.
    fn wait(&mut self, jobs: &Receiver<Job>) -> Option<Job> {
        loop {
            let is_due = !self.dirs.is_empty() && self.nr_rounds < Self::ROUNDS;
            let pause = Self::PAUSE * (1 << self.nr_rounds);
            let job = if is_due { jobs.recv_timeout(pause) } else { jobs.recv().map_err(Into::into) };
            match job {
                Ok(job) => {
                    self.try_some(Self::AT_ONCE);
                    return Some(job);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.try_some(self.dirs.len());
                    self.nr_rounds += 1;
                }
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn try_some(&mut self, nr: usize) {
        for _ in 0..nr.min(self.dirs.len()) {
            if let Some(dir) = self.dirs.pop_front()
                && is_busy(&std::fs::remove_dir(&dir))
            {
                self.dirs.push_back(dir);
            }
        }
    }
}

fn is_busy(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY))
}

fn carry_out(step: &Step, leftovers: &mut Leftovers) -> io::Result<()> {
    match step {
        Step::Mkdir(path) => match std::fs::create_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        },
        Step::Write(path, value) => {
            std::fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
        }
        Step::Rmdir(path) => match std::fs::remove_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result if is_busy(&result) => {
                leftovers.add(path.clone());
                Ok(())
            }
            result => result,
        },
    }
}
