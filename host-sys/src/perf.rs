//! `perf_event_open(2)`: events of single threads that end up in one ring per CPU.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use crate::sys::{self, Words};

/// The kernel's `struct perf_event_attr`, version 5 (112 bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clock_id: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}

const TYPE_SOFTWARE: u32 = 1;
const TYPE_TRACEPOINT: u32 = 2;
const COUNT_SW_DUMMY: u64 = 9;
const COUNT_SW_BPF_OUTPUT: u64 = 10;

const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_TIME: u64 = 1 << 2;
const SAMPLE_CPU: u64 = 1 << 7;
const SAMPLE_RAW: u64 = 1 << 10;

const FLAG_INHERIT: u64 = 1 << 1;
const FLAG_EXCLUDE_KERNEL: u64 = 1 << 5;
const FLAG_EXCLUDE_HV: u64 = 1 << 6;
const FLAG_MMAP: u64 = 1 << 8;
const FLAG_COMM: u64 = 1 << 9;
const FLAG_TASK: u64 = 1 << 13;
const FLAG_WATERMARK: u64 = 1 << 14;
const FLAG_MMAP_DATA: u64 = 1 << 17;
const FLAG_SAMPLE_ID_ALL: u64 = 1 << 18;
const FLAG_COMM_EXEC: u64 = 1 << 24;
const FLAG_USE_CLOCKID: u64 = 1 << 25;
const FLAG_CONTEXT_SWITCH: u64 = 1 << 26;

const IOC_SET_OUTPUT: u64 = 0x2405;
const IOC_SET_FILTER: u64 = 0x4008_2406;
const IOC_SET_BPF: u64 = 0x4004_2408;

/// What an event reports into its ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// Fork, exit and exec of the thread; with `switches` also each time that it is switched in or out.
    Tasks {
        /// Report context switches as well.
        switches: bool,
    },
    /// Fork, exit and exec of the thread, and each new mapping of its address space.
    Mappings,
    /// Each hit of the tracepoint with this number, with its raw data.
    Tracepoint(u64),
    /// What a program of the kernel's machine writes.
    Program,
}

fn attr(report: Report) -> Attr {
    let mut attr = Attr {
        size: size_of::<Attr>() as u32,
        sample_type: SAMPLE_TID | SAMPLE_TIME | SAMPLE_CPU,
        flags: FLAG_INHERIT | FLAG_WATERMARK | FLAG_SAMPLE_ID_ALL | FLAG_USE_CLOCKID,
        wakeup: 1,
        clock_id: libc::CLOCK_MONOTONIC,
        ..Attr::default()
    };
    match report {
        Report::Tasks { switches } => {
            attr.kind = TYPE_SOFTWARE;
            attr.config = COUNT_SW_DUMMY;
            attr.flags |= FLAG_EXCLUDE_KERNEL | FLAG_EXCLUDE_HV | FLAG_TASK | FLAG_COMM | FLAG_COMM_EXEC;
            if switches {
                attr.flags |= FLAG_CONTEXT_SWITCH;
            }
        }
        Report::Mappings => {
            attr.kind = TYPE_SOFTWARE;
            attr.config = COUNT_SW_DUMMY;
            attr.flags |= FLAG_EXCLUDE_KERNEL | FLAG_EXCLUDE_HV | FLAG_TASK | FLAG_COMM | FLAG_COMM_EXEC;
            attr.flags |= FLAG_MMAP | FLAG_MMAP_DATA;
        }
        Report::Tracepoint(id) => {
            attr.kind = TYPE_TRACEPOINT;
            attr.config = id;
            attr.sample_period = 1;
            attr.sample_type |= SAMPLE_RAW;
        }
        Report::Program => {
            attr.kind = TYPE_SOFTWARE;
            attr.config = COUNT_SW_BPF_OUTPUT;
            attr.sample_period = 1;
            attr.sample_type |= SAMPLE_RAW;
            attr.flags &= !FLAG_INHERIT;
        }
    }
    attr
}

/// An event of one thread (and the threads and processes that it will start) on one CPU. Ends when dropped.
#[derive(Debug)]
pub struct ThreadEvent {
    fd: OwnedFd,
}

impl ThreadEvent {
    /// Opens it, its output going into `ring`.
    ///
    /// # Errors
    /// `ESRCH`, `EACCES` or `EPERM` where the host does not grant it, `EMFILE`.
    pub fn open(report: Report, tid: i32, ring: &Ring) -> io::Result<Self> {
        let fd = sys::perf_event_open(&attr(report), tid, ring.cpu)?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(&ring.fd);
        sys::perf_ioctl(fd.as_fd(), IOC_SET_OUTPUT, raw as u64)?;
        Ok(Self { fd })
    }

    /// Has a program run at each hit of a tracepoint, on any CPU and by whomever, for as long as the value lives.
    pub(crate) fn with_program(id: u64, cpu: i32, program: BorrowedFd<'_>) -> io::Result<Self> {
        let mut attr = attr(Report::Tracepoint(id));
        // The event itself only counts.
        (attr.sample_period, attr.flags) = (0, 0);
        let fd = sys::perf_event_open(&attr, -1, cpu)?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(&program);
        sys::perf_ioctl(fd.as_fd(), IOC_SET_BPF, raw as u64)?;
        Ok(Self { fd })
    }

    /// Lets through only hits for which the filter expression (as in tracefs) holds.
    ///
    /// # Errors
    /// `EINVAL` for an expression that the kernel does not understand.
    pub fn set_filter(&self, filter: &str) -> io::Result<()> {
        let filter = CString::new(filter)?;
        sys::perf_ioctl_str(self.fd.as_fd(), IOC_SET_FILTER, &filter)
    }
}

impl AsFd for ThreadEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The ring buffer of one CPU, into which the events of that CPU report.
#[derive(Debug)]
pub struct Ring {
    fd: OwnedFd,
    cpu: i32,
    words: Words,
    mask: u64,
}

const PAGE: usize = 4096;
const DATA_HEAD: usize = 1024 / 8;
const DATA_TAIL: usize = 1032 / 8;

/// A record as it lies in a ring: its type, flags and body.
#[derive(Clone, Copy, Debug)]
pub struct RawRecord<'a> {
    /// `PERF_RECORD_*`.
    pub kind: u32,
    /// `PERF_RECORD_MISC_*`.
    pub misc: u16,
    /// What follows the header.
    pub body: &'a [u8],
}

impl Ring {
    /// Makes a ring of `pages` pages (a power of two) for one CPU.
    ///
    /// # Errors
    /// `EACCES` or `EPERM` where the host does not grant perf events; `ENODEV` for a CPU that is off line.
    pub fn new(cpu: i32, pages: usize) -> io::Result<Self> {
        let mut attr = attr(Report::Tasks { switches: false });
        // The ring's own event watches the calling thread, and is to report nothing of it.
        attr.flags &= !(FLAG_TASK | FLAG_COMM | FLAG_COMM_EXEC | FLAG_INHERIT);
        let fd = sys::perf_event_open(&attr, 0, cpu)?;
        let words = Words::map(fd.as_fd(), (pages + 1) * PAGE / 8, true)?;
        Ok(Self { fd, cpu, words, mask: (pages * PAGE - 1) as u64 })
    }

    /// Gives the CPU.
    pub fn cpu(&self) -> i32 {
        self.cpu
    }

    /// Whether records wait. A memory read.
    pub fn has_records(&self) -> bool {
        let words = self.words.as_slice();
        words[DATA_HEAD].load(Ordering::Acquire) != words[DATA_TAIL].load(Ordering::Relaxed)
    }

    /// Hands every waiting record to `each` and frees its place. `buf` is scratch.
    pub fn drain(&self, buf: &mut Vec<u8>, mut each: impl FnMut(RawRecord<'_>)) {
        let words = self.words.as_slice();
        let head = words[DATA_HEAD].load(Ordering::Acquire);
        let mut tail = words[DATA_TAIL].load(Ordering::Relaxed);
        while tail < head {
            let mut header = [0u8; 8];
            self.copy(tail, &mut header);
            let kind = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
            let misc = u16::from_ne_bytes([header[4], header[5]]);
            let size = usize::from(u16::from_ne_bytes([header[6], header[7]]));
            if size < 8 {
                tail = head;
                break;
            }
            buf.resize(size - 8, 0);
            self.copy(tail + 8, buf);
            each(RawRecord { kind, misc, body: buf });
            tail += size as u64;
        }
        words[DATA_TAIL].store(tail, Ordering::Release);
    }

    fn copy(&self, from: u64, to: &mut [u8]) {
        let start = (from & self.mask) as usize;
        let first = to.len().min(self.mask as usize + 1 - start);
        let (head, rest) = to.split_at_mut(first);
        self.words.copy_bytes(PAGE + start, head);
        self.words.copy_bytes(PAGE, rest);
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
