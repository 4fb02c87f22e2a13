//! What no safe library has: a way into the actor before the test harness starts, `semtimedop(2)`, and memory to do anything with.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Runs before `main`, so that an actor is a process without the harness's threads.
extern "C" fn before_main() {
    super::actor::play_if_asked();
}

#[used]
// SAFETY: a function of the type that the C library calls for each entry of this section, after the standard library's own.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

/// Waits on a new System V semaphore that nobody raises. Gives the error at the end: `EAGAIN` when the time is over.
pub fn wait_on_semaphore(time: Duration) -> io::Error {
    let mut op = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
    let timeout =
        libc::timespec { tv_sec: time.as_secs() as libc::time_t, tv_nsec: i64::from(time.subsec_nanos()) };
    // SAFETY: takes no memory.
    let id = unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) };
    if id < 0 {
        return io::Error::last_os_error();
    }
    // SAFETY: `op` and `timeout` live through the call, which reads them only.
    unsafe { libc::syscall(libc::SYS_semtimedop, id, &raw mut op, 1usize, &raw const timeout) };
    let error = io::Error::last_os_error();
    // SAFETY: this command takes no further argument.
    unsafe { libc::semctl(id, 0, libc::IPC_RMID) };
    error
}

const PAGE: usize = 4096;
/// 64-bit words of a page.
pub const PAGE_WORDS: usize = PAGE / 8;

/// Private memory of whole pages, given back when dropped. Other processes of the kernel's, and we, may look at it at any time: it is
/// words that are loaded and stored one by one.
#[derive(Debug)]
pub struct Mapping {
    at: usize,
    pages: usize,
    is_heap: bool,
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Mapping {
    /// Maps anonymous memory.
    pub fn new(pages: usize) -> Self {
        Self { at: map(0, pages, 0).expect("memory"), pages, is_heap: false }
    }

    /// Maps anonymous memory that begins where a large page may.
    pub fn for_large_pages(pages: usize) -> Self {
        let all = Self::new(pages + 511);
        let at = all.at.next_multiple_of(PAGE * 512);
        let end = all.at + all.pages * PAGE;
        // SAFETY: both ranges are ours alone, and nobody has a reference into them.
        unsafe {
            if at > all.at {
                libc::munmap(all.at as *mut libc::c_void, at - all.at);
            }
            if end > at + pages * PAGE {
                libc::munmap((at + pages * PAGE) as *mut libc::c_void, end - at - pages * PAGE);
            }
        }
        std::mem::forget(all);
        Self { at, pages, is_heap: false }
    }

    /// Gets memory by `brk(2)`; never given back.
    pub fn on_the_heap(pages: usize) -> Self {
        // SAFETY: the heap grows, and the C library puts up with others that have it grow.
        let at = unsafe { libc::sbrk(((pages + 1) * PAGE) as isize) } as usize;
        assert_ne!(at, usize::MAX, "a larger heap");
        Self { at: at.next_multiple_of(PAGE), pages, is_heap: true }
    }

    pub fn pages(&self) -> usize {
        self.pages
    }

    pub fn address(&self, page: usize) -> usize {
        assert!(page <= self.pages);
        self.at + page * PAGE
    }

    /// The words of a page, which must be readable, and writable to be stored to.
    pub fn page(&self, page: usize) -> &[AtomicU64] {
        assert!(page < self.pages);
        // SAFETY: mapped as long as `self` lives; any bits are a word; only accessed as words.
        unsafe { std::slice::from_raw_parts(self.address(page) as *const AtomicU64, PAGE_WORDS) }
    }

    fn range(&self, first: usize, nr: usize) -> (*mut libc::c_void, usize) {
        assert!(first + nr <= self.pages);
        (self.address(first) as *mut libc::c_void, nr * PAGE)
    }

    /// `madvise(2)`, with advice that takes no memory away but its content.
    pub fn advise(&self, first: usize, nr: usize, advice: libc::c_int) -> io::Result<()> {
        let (at, len) = self.range(first, nr);
        // SAFETY: the range is ours, and its content is only words.
        checked(unsafe { libc::madvise(at, len, advice) })
    }

    /// `mprotect(2)`; whoever takes rights away does not use them.
    pub fn protect(&self, first: usize, nr: usize, prot: libc::c_int) -> io::Result<()> {
        let (at, len) = self.range(first, nr);
        // SAFETY: the range is ours.
        checked(unsafe { libc::mprotect(at, len, prot) })
    }

    /// `mlock(2)` or `munlock(2)`.
    pub fn lock(&self, first: usize, nr: usize, on: bool) -> io::Result<()> {
        let (at, len) = self.range(first, nr);
        // SAFETY: the range is ours.
        checked(unsafe { if on { libc::mlock(at, len) } else { libc::munlock(at, len) } })
    }

    /// Maps new memory over a part of it.
    pub fn map_anew(&self, first: usize, nr: usize) -> io::Result<()> {
        self.range(first, nr);
        map(self.address(first), nr, libc::MAP_FIXED).map(drop)
    }

    /// Moves pages to a part of another mapping; zeros are left.
    pub fn carry(&self, first: usize, nr: usize, to: &Self, at: usize) -> io::Result<()> {
        let ((from, len), (to, _)) = (self.range(first, nr), to.range(at, nr));
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        // SAFETY: both ranges are ours and stay mapped.
        let moved = unsafe { libc::mremap(from, len, len, flags, to) };
        if moved == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Makes it larger or smaller by `mremap(2)`; it may be elsewhere then.
    pub fn resize(&mut self, pages: usize) -> io::Result<()> {
        let (at, len) = self.range(0, self.pages);
        // SAFETY: nobody has a reference into it.
        let moved = unsafe { libc::mremap(at, len, pages * PAGE, libc::MREMAP_MAYMOVE) };
        if moved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        (self.at, self.pages) = (moved as usize, pages);
        Ok(())
    }

    /// `pread(2)` into pages.
    pub fn read(&self, first: usize, nr: usize, file: &impl AsRawFd, at: usize) -> io::Result<usize> {
        let (to, len) = self.range(first, nr);
        // SAFETY: the range is ours, and any bytes are words.
        let n = unsafe { libc::pread(file.as_raw_fd(), to, len, (at * PAGE) as libc::off_t) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// `pwrite(2)` of pages.
    pub fn write(&self, first: usize, nr: usize, file: &impl AsRawFd, at: usize) -> io::Result<usize> {
        let (from, len) = self.range(first, nr);
        // SAFETY: the range is ours.
        let n = unsafe { libc::pwrite(file.as_raw_fd(), from, len, (at * PAGE) as libc::off_t) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.is_heap {
            // SAFETY: nobody has a reference into it.
            unsafe { libc::munmap(self.at as *mut libc::c_void, self.pages * PAGE) };
        }
    }
}

fn map(at: usize, pages: usize, flags: libc::c_int) -> io::Result<usize> {
    let (rw, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | flags,
    );
    // SAFETY: wherever the kernel likes, or over memory that is the caller's.
    let got = unsafe { libc::mmap(at as *mut libc::c_void, pages * PAGE, rw, flags, -1, 0) };
    if got == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(got as usize) }
}

/// Forks a child that ends with the status that `child` gives. `child` may neither allocate nor panic: other threads are not there.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: the child does only what `child` does, which is as after a signal.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let status = child();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) }
        }
        pid => Ok(pid),
    }
}

/// Waits for a child; gives its status, or 128 and the signal.
pub fn wait_for_child(pid: i32) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: `status` lives through the call.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return if libc::WIFEXITED(status) {
                libc::WEXITSTATUS(status)
            } else {
                128 + libc::WTERMSIG(status)
            };
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return -1;
        }
    }
}
