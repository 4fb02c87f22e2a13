//! The checker: threads that own pages, do all that a program may do with them, and know what must be in each.
//!
//! `pages MILLISECONDS MIB THREADS KINDS`, the MiB for each thread, KINDS of `maps,fork,io,huge,lock,exec,stack`, joined by commas, or `all`.
//! With `mortal` it is right too that a child is killed, as long as none goes on with wrong pages.
//! Ends with 0 only if every page was right whenever it was looked at, and at the end.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio, exit};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::actor::ROLE;
use super::sys::{Mapping, PAGE_WORDS, fork, wait_for_child};

/// Ends a checker that has found a wrong page.
pub const WRONG: i32 = 3;

/// The status of a child that was killed.
const KILLED: i32 = 128 + libc::SIGKILL;

/// What must be in a page.
#[derive(Clone, Copy, Default)]
struct Page {
    /// Zeros, or what [`word`] makes of it.
    stamp: u64,
    /// Freed lazily: zeros are right as well.
    may_be_zero: bool,
}

/// Even stamps can be compressed.
fn word(stamp: u64, i: usize) -> u64 {
    let i = if stamp.is_multiple_of(2) { i & 7 } else { i };
    if stamp == 0 { 0 } else { (stamp ^ (i as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
}

fn has(words: &[AtomicU64], stamp: u64) -> bool {
    words.iter().enumerate().all(|(i, w)| w.load(Ordering::Relaxed) == word(stamp, i))
}

fn put(words: &[AtomicU64], stamp: u64) {
    for (i, w) in words.iter().enumerate() {
        w.store(word(stamp, i), Ordering::Relaxed);
    }
}

/// A file of whole pages that one thread has.
struct Pages {
    file: File,
    direct: Option<File>,
    stamps: Vec<u64>,
}

/// What one thread owns.
struct Owner {
    memory: Mapping,
    /// Another place, for pages that are carried about.
    spare: Mapping,
    pages: Vec<Page>,
    seed: u64,
    nr: u64,
    file: Option<Pages>,
    kinds: Vec<String>,
}

pub fn play(words: &[&str]) {
    let number = |at: usize| words.get(at).and_then(|w| w.parse::<u64>().ok()).unwrap_or(1);
    let (time, mib, threads) = (Duration::from_millis(number(0)), number(1) as usize, number(2));
    let kinds = match words.get(3).copied().unwrap_or("") {
        "all" => "maps,fork,io,huge,lock,exec,stack",
        kinds => kinds,
    };
    let kinds: Vec<String> = kinds.split(',').map(str::to_owned).collect();
    let end = Instant::now() + time;
    let others: Vec<_> = (1..threads)
        .map(|n| {
            let kinds = kinds.clone();
            std::thread::spawn(move || Owner::new(n, mib * 256, kinds).live(end))
        })
        .collect();
    let mut rounds = Owner::new(0, mib * 256, kinds).live(end);
    for other in others {
        rounds += other.join().unwrap_or_else(|_| exit(4));
    }
    eprintln!("pages: {rounds} rounds, all right");
}

impl Owner {
    fn new(number: u64, nr: usize, kinds: Vec<String>) -> Self {
        let has = |kind: &str| kinds.iter().any(|k| k == kind);
        let memory = match number % 3 {
            0 if number > 0 || !has("maps") => Mapping::new(nr),
            0 => Mapping::on_the_heap(nr),
            _ if has("huge") => Mapping::for_large_pages(nr),
            _ => Mapping::new(nr),
        };
        if has("huge") {
            let _ = memory.advise(0, nr, libc::MADV_HUGEPAGE);
        }
        let seed = (u64::from(std::process::id()) << 20 | number << 8) ^ 0x5bd1_e995_5bd1_e995;
        let file = has("io").then(Pages::new);
        Self { memory, spare: Mapping::new(64), pages: vec![Page::default(); nr], seed, nr: 0, file, kinds }
    }

    fn random(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) as usize % below
    }

    fn live(mut self, end: Instant) -> u64 {
        for page in 0..self.pages.len() {
            self.rewrite(page);
        }
        while Instant::now() < end {
            self.nr += 1;
            let (first, nr) = self.some(16);
            match self.random(32) {
                0..8 => (0..16).for_each(|_| {
                    let (page, _) = self.some(1);
                    self.rewrite(page);
                }),
                8..14 => (0..16).for_each(|_| {
                    let (page, _) = self.some(1);
                    self.check(page);
                }),
                14..16 => {
                    let (first, nr) = self.some(256);
                    (first..first + nr).for_each(|page| self.check(page));
                }
                16 => {
                    let (first, nr) = self.some(256);
                    (first..first + nr).for_each(|page| self.rewrite(page));
                }
                17..20 if self.does("maps") => self.discard(first, nr),
                20..23 if self.does("maps") => self.remap(first, nr),
                23..25 if self.does("io") => self.input_and_output(first, nr),
                25..28 if self.does("fork") => self.fork(first, nr),
                28 if self.does("exec") => self.execute(),
                29 if self.does("stack") => self.use_stacks(),
                30 if self.does("lock") => self.lock(first, nr),
                31 if self.does("huge") => self.make_large(),
                _ => {}
            }
        }
        (0..self.pages.len()).for_each(|page| self.check(page));
        self.nr
    }

    fn does(&self, kind: &str) -> bool {
        self.kinds.iter().any(|k| k == kind)
    }

    /// Neighbouring pages.
    fn some(&mut self, most: usize) -> (usize, usize) {
        let nr = 1 + self.random(most.min(self.pages.len()));
        (self.random(self.pages.len() - nr + 1), nr)
    }

    fn check(&self, page: usize) {
        self.check_at(&self.memory, page, page);
    }

    fn check_at(&self, memory: &Mapping, at: usize, page: usize) {
        let (words, want) = (memory.page(at), self.pages[page]);
        if !(has(words, want.stamp) || want.may_be_zero && has(words, 0)) {
            let wrong =
                words.iter().enumerate().filter(|(i, w)| w.load(Ordering::Relaxed) != word(want.stamp, *i));
            let zeros = words.iter().filter(|w| w.load(Ordering::Relaxed) == 0).count();
            eprintln!(
                "WRONG page {page} of {} at {:#x}, round {}: stamp {:#x}, {} words wrong, {zeros} zero, first {:#x}",
                self.pages.len(),
                memory.address(at),
                self.nr,
                want.stamp,
                wrong.count(),
                words[0].load(Ordering::Relaxed)
            );
            exit(WRONG);
        }
    }

    fn new_stamp(&mut self) -> u64 {
        self.random(1 << 40) as u64 + 2
    }

    fn rewrite(&mut self, page: usize) {
        self.check(page);
        let stamp = self.new_stamp();
        put(self.memory.page(page), stamp);
        self.pages[page] = Page { stamp, may_be_zero: false };
    }

    fn discard(&mut self, first: usize, nr: usize) {
        let advice = [libc::MADV_DONTNEED, libc::MADV_FREE, libc::MADV_COLD][self.random(3)];
        self.memory.advise(first, nr, advice).expect("madvise");
        for page in first..first + nr {
            match advice {
                libc::MADV_DONTNEED => self.pages[page] = Page::default(),
                libc::MADV_FREE => self.pages[page].may_be_zero = true,
                _ => {}
            }
            self.check(page);
        }
    }

    fn remap(&mut self, first: usize, nr: usize) {
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        match self.random(5) {
            0 => {
                self.memory.map_anew(first, nr).expect("mmap");
                self.pages[first..first + nr].fill(Page::default());
            }
            1 => {
                self.memory.protect(first, nr, libc::PROT_READ).expect("mprotect");
                (first..first + nr).for_each(|page| self.check(page));
                self.memory.protect(first, nr, rw).expect("mprotect");
            }
            2 => {
                self.memory.protect(first, nr, libc::PROT_NONE).expect("mprotect");
                self.memory.protect(first, nr, rw).expect("mprotect");
            }
            3 => {
                // There and back again.
                match self.memory.carry(first, nr, &self.spare, 0) {
                    // More than one mapping, of which the kernel moves only one at a time where a userfaultfd is.
                    Err(e) if e.raw_os_error() == Some(libc::EFAULT) => return,
                    carried => carried.expect("mremap"),
                }
                (0..nr).for_each(|n| self.check_at(&self.spare, n, first + n));
                if !(first..first + nr).all(|page| has(self.memory.page(page), 0)) {
                    eprintln!("WRONG: something is left where pages {first}+{nr} were");
                    exit(WRONG);
                }
                self.spare.carry(0, nr, &self.memory, first).expect("mremap");
            }
            _ => {
                // A mapping of its own that grows, moves, shrinks and goes.
                let mut other = Mapping::new(nr);
                (0..nr).for_each(|n| put(other.page(n), 77 + n as u64));
                other.resize(nr * 4).expect("mremap");
                (nr..nr * 4).for_each(|n| put(other.page(n), 77 + n as u64));
                let guard = Mapping::new(1);
                other.resize(nr * 9).expect("mremap");
                drop(guard);
                let is_right =
                    (0..nr * 9).all(|n| has(other.page(n), if n < nr * 4 { 77 + n as u64 } else { 0 }));
                other.resize(nr).expect("mremap");
                if !is_right || !(0..nr).all(|n| has(other.page(n), 77 + n as u64)) {
                    eprintln!("WRONG: a mapping that grew and shrank");
                    exit(WRONG);
                }
            }
        }
        (first..first + nr).for_each(|page| self.check(page));
    }

    /// The kernel reads into pages and writes from them, whether they are there or not.
    fn input_and_output(&mut self, first: usize, nr: usize) {
        let (at, is_write, is_direct) = (self.random(48), self.random(2) == 0, self.random(2) == 0);
        let Some(pages) = &mut self.file else { return };
        let file = pages.direct.as_ref().filter(|_| is_direct).unwrap_or(&pages.file);
        if is_write {
            if self.pages[first..first + nr].iter().any(|p| p.may_be_zero) {
                return;
            }
            assert_eq!(self.memory.write(first, nr, file, at).expect("pwrite"), nr * 4096);
            for n in 0..nr {
                pages.stamps[at + n] = self.pages[first + n].stamp;
            }
        } else {
            assert_eq!(self.memory.read(first, nr, file, at).expect("pread"), nr * 4096);
            for n in 0..nr {
                self.pages[first + n] = Page { stamp: pages.stamps[at + n], may_be_zero: false };
            }
        }
        (first..first + nr).for_each(|page| self.check(page));
    }

    /// Parent and child, and sometimes its child, write to the same pages, which are each one's own.
    fn fork(&mut self, first: usize, nr: usize) {
        let (is_deep, stamp) = (self.random(3) == 0, self.new_stamp());
        let (memory, pages) = (&self.memory, &self.pages);
        let are_right = || {
            let right = |page: usize| {
                let (words, want) = (memory.page(page), pages[page]);
                let is_right = has(words, want.stamp) || want.may_be_zero && has(words, 0);
                if !is_right {
                    tell_from_a_child(page, want.stamp, memory.address(page), words);
                }
                is_right
            };
            (first..first + nr).all(right) && (0..pages.len()).step_by(61).all(right)
        };
        let write = |stamp: u64| (first..first + nr).for_each(|page| put(memory.page(page), stamp));
        let have = |stamp: u64| (first..first + nr).all(|page| has(memory.page(page), stamp));
        let child = fork(|| {
            if !are_right() {
                return 11;
            }
            if is_deep {
                let Ok(grandchild) = fork(|| if are_right() { 0 } else { 12 }) else { return 13 };
                write(stamp);
                let status = wait_for_child(grandchild);
                if status != 0 && status != KILLED {
                    return status;
                }
            } else {
                write(stamp);
            }
            if have(stamp) { 0 } else { 14 }
        })
        .expect("fork");
        for page in first..first + nr {
            self.rewrite(page);
        }
        let status = wait_for_child(child);
        if status != 0 && !(self.does("mortal") && status == KILLED) {
            eprintln!("WRONG in a child: {status}, round {}", self.nr);
            exit(if status < 64 { WRONG } else { 5 });
        }
        (first..first + nr).for_each(|page| self.check(page));
    }

    /// By `posix_spawn`.
    fn execute(&self) {
        let mut command = Command::new("/bin/true");
        let status = command.env_remove(ROLE).stdin(Stdio::null()).status().expect("true");
        if !(status.success() || self.does("mortal") && status.signal() == Some(libc::SIGKILL)) {
            eprintln!("WRONG: true is not: {status}");
            exit(WRONG);
        }
    }

    /// New threads, whose stacks grow.
    fn use_stacks(&mut self) {
        let depth = 1 + self.random(80) as u64;
        let deep = std::thread::Builder::new().stack_size(16 << 20).spawn(move || descend(depth * 4));
        if !descend(depth) || !deep.expect("a thread").join().unwrap_or(false) {
            eprintln!("WRONG: a stack");
            exit(WRONG);
        }
    }

    fn lock(&mut self, first: usize, nr: usize) {
        if self.memory.lock(first, nr, true).is_ok() {
            (first..first + nr).for_each(|page| self.rewrite(page));
            self.memory.lock(first, nr, false).expect("munlock");
        }
    }

    /// A large page is touched at once, then lost in part.
    fn make_large(&mut self) {
        let large = Mapping::for_large_pages(512);
        let _ = large.advise(0, 512, libc::MADV_HUGEPAGE);
        (0..512).step_by(7).for_each(|page| put(large.page(page), 1000 + page as u64));
        large.advise(0, 64, libc::MADV_DONTNEED).expect("madvise");
        let want = |page: usize| if page.is_multiple_of(7) && page >= 64 { 1000 + page as u64 } else { 0 };
        if !(0..512).all(|page| has(large.page(page), want(page))) {
            eprintln!("WRONG: a large page");
            exit(WRONG);
        }
    }
}

impl Pages {
    fn new() -> Self {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").expect("a file");
        file.as_file().set_len(64 * 4096).expect("a size");
        let mut options = File::options();
        let direct = options.read(true).write(true).custom_flags(libc::O_DIRECT).open(file.path()).ok();
        Self { direct, file: file.into_file(), stamps: vec![0; 64] }
    }
}

/// Says what is wrong without allocating anything.
fn tell_from_a_child(page: usize, stamp: u64, address: usize, words: &[AtomicU64]) {
    let mut text = [0u8; 200];
    let first = words[0].load(Ordering::Relaxed);
    let zeros = words.iter().filter(|w| w.load(Ordering::Relaxed) == 0).count();
    let mut rest = &mut text[..];
    let (want, pid) = (word(stamp, 0), nix::unistd::getpid());
    let _ = writeln!(
        rest,
        "in child {pid} page {page} at {address:#x}: {first:#x}, {zeros} zero, want {want:#x}"
    );
    let left = rest.len();
    let len = text.len() - left;
    let _ = nix::unistd::write(std::io::stderr(), &text[..len]);
}

/// Uses a page of stack in each of so many calls.
fn descend(depth: u64) -> bool {
    let mut words = [0u64; PAGE_WORDS];
    for (i, w) in words.iter_mut().enumerate() {
        *w = word(depth + 100, i);
    }
    let words = std::hint::black_box(words);
    let is_right = depth == 0 || descend(depth - 1);
    is_right && words.iter().enumerate().all(|(i, w)| *w == word(depth + 100, i))
}
