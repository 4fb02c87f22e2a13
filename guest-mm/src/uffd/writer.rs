//! Threads that write pages to swap files, while the worker goes on serving faults.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::store::{Pages, TierFile};
use crate::StageId;

/// How many writes are under way at once.
const THREADS: usize = 2;

/// Pages for neighbouring places of a file.
#[derive(Debug)]
pub(crate) struct Job {
    /// The file.
    pub(crate) file: Arc<TierFile>,
    /// The first place.
    pub(crate) index: u32,
    /// The pages, the first so many of the buffer.
    pub(crate) pages: Pages,
    /// Where each is staged.
    pub(crate) stages: Vec<StageId>,
    /// How it ended.
    pub(crate) result: io::Result<()>,
}

/// The threads.
#[derive(Debug)]
pub(crate) struct Writer {
    jobs: Option<Sender<Job>>,
    done: Receiver<Job>,
    event: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
    nr_under_way: usize,
    nr_pages: usize,
}

impl Writer {
    /// Starts them.
    ///
    /// # Errors
    /// Those of `eventfd` and of starting threads.
    pub(crate) fn new() -> io::Result<Self> {
        let (jobs, take) = channel::<Job>();
        let (give, done) = channel();
        let take = Arc::new(Mutex::new(take));
        let event = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let (take, give, event) = (take.clone(), give.clone(), event.clone());
            let run = move || {
                loop {
                    let job = take.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(mut job) = job else { return };
                    let bytes = job.pages.range(0..job.stages.len());
                    job.result = job.file.write_pages(job.index, bytes);
                    if give.send(job).is_err() {
                        return;
                    }
                    let _ = event.write(1);
                }
            };
            threads.push(std::thread::Builder::new().name("swap-writer".into()).spawn(run)?);
        }
        Ok(Self { jobs: Some(jobs), done, event, threads, nr_under_way: 0, nr_pages: 0 })
    }

    /// Begins a write.
    pub(crate) fn start(&mut self, mut job: Job) -> Result<(), Job> {
        let Some(jobs) = &self.jobs else { return Err(job) };
        job.result = Ok(());
        let nr_pages = job.stages.len();
        jobs.send(job).map_err(|e| e.0)?;
        self.nr_under_way += 1;
        self.nr_pages += nr_pages;
        Ok(())
    }

    /// How many writes are under way.
    pub(crate) fn nr_under_way(&self) -> usize {
        self.nr_under_way
    }

    /// How many pages are being written.
    pub(crate) fn nr_pages(&self) -> u64 {
        self.nr_pages as u64
    }

    /// Gives a write that has ended; waits for one, if asked to and one is under way.
    pub(crate) fn finished(&mut self, waits: bool) -> Option<Job> {
        // Also if there is nothing: what was waited for is told too, or it would be told for ever.
        let _ = self.event.read();
        if self.nr_under_way == 0 {
            return None;
        }
        let job = if waits { self.done.recv().ok() } else { self.done.try_recv().ok() };
        self.nr_under_way -= usize::from(job.is_some());
        self.nr_pages -= job.as_ref().map_or(0, |job| job.stages.len());
        job
    }

    /// Ends the threads, once their writes are done.
    pub(crate) fn stop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl AsFd for Writer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::PAGE_SIZE;

    fn job(file: &Arc<TierFile>, index: u32, fill: u8) -> Job {
        let mut pages = Pages::new(1);
        pages.range_mut(0..1).fill(fill);
        Job { file: file.clone(), index, pages, stages: vec![StageId(index)], result: Ok(()) }
    }

    #[test]
    fn writes_end_and_are_in_the_file() {
        let file = Arc::new(TierFile::from(tempfile::tempfile().expect("a file")));
        let mut writer = Writer::new().expect("threads");
        for index in 0..8 {
            writer.start(job(&file, index, index as u8)).expect("taken");
        }

        let mut ended = Vec::new();
        while let Some(job) = writer.finished(true) {
            assert!(job.result.is_ok());
            ended.push(job.index);
        }
        writer.stop();

        ended.sort_unstable();
        assert_eq!(ended, (0..8).collect::<Vec<_>>());
        let mut byte = [0];
        for index in 0..8u8 {
            file.read_exact_at(&mut byte, u64::from(index) * PAGE_SIZE).expect("written");
            assert_eq!(byte, [index]);
        }
        assert!(writer.start(job(&file, 0, 0)).is_err(), "it is stopped");
    }

    #[test]
    fn failed_write_says_so() {
        let file = Arc::new(TierFile::from(File::open("/dev/null").expect("there")));
        let mut writer = Writer::new().expect("threads");
        writer.start(job(&file, 0, 1)).expect("taken");

        assert!(writer.finished(true).is_some_and(|job| job.result.is_err()));
        assert_eq!(writer.nr_under_way(), 0);
    }
}
