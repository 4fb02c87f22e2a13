//! A thread that moves tasks between cgroups.
//!
//! Moving waits for a grace period of the kernel (2 to 9 ms when none was near), too long for the loop that
//! decides who runs. A job is a list of steps; it ends at the first that fails.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// One step of a job.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Makes a directory; one that exists is as good.
    Mkdir(PathBuf),
    /// Writes a value into a file.
    Write(PathBuf, String),
    /// Removes an empty directory; one that is gone is as good. Tried again for a while where tasks are just leaving it.
    Rmdir(PathBuf),
}

/// What became of the job with this token.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) token: u64,
    pub(crate) result: io::Result<()>,
}

/// The thread.
#[derive(Debug)]
pub(crate) struct Mover {
    jobs: Option<Sender<(u64, Vec<Step>)>>,
    done: Receiver<Done>,
    ready: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    nr_pending: usize,
}

impl Mover {
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, queue) = channel::<(u64, Vec<Step>)>();
        let (replies, done) = channel();
        let ready = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let bell = Arc::clone(&ready);
        let thread = thread::Builder::new().name("mover".into()).spawn(move || {
            let _ = host_sys::sched::favour_self();
            for (token, steps) in queue {
                let result = steps.iter().try_for_each(carry_out);
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

fn carry_out(step: &Step) -> io::Result<()> {
    match step {
        Step::Mkdir(path) => match std::fs::create_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        },
        Step::Write(path, value) => {
            std::fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
        }
        Step::Rmdir(path) => remove(path),
    }
}

fn remove(path: &std::path::Path) -> io::Result<()> {
    for pause_ms in [0, 1, 3, 10, 30] {
        thread::sleep(std::time::Duration::from_millis(pause_ms));
        match std::fs::remove_dir(path) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => return Ok(()),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}
