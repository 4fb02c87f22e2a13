//! Wake-ups of chosen threads, wherever on the host they happen.
//!
//! A tracepoint event of a single thread is no longer sampled while that thread sleeps (Linux 7.0 and the stable kernels that took over its
//! "perf: Fix __perf_event_overflow() vs perf_remove_from_context() race"): its own wake-up is just then. So a program of some
//! instructions hangs on the tracepoint, looks up who wakes up in a table of ours, and writes a record like the
//! tracepoint's into the ring of its CPU. It changes nothing for others who use the tracepoint.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::perf::{Report, Ring, ThreadEvent};
use crate::sys;

const MAP_HASH: u32 = 1;
const MAP_PERF_EVENT_ARRAY: u32 = 4;
const NO_PREALLOC: u32 = 1;
const PROG_TRACEPOINT: u32 = 5;
const MAX_THREADS: u32 = 1 << 20;

/// Bytes of a record that the program writes.
const RECORD: i16 = 32;

/// A tracepoint that has the number of the thread that wakes up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WakeTracepoint {
    /// Its number.
    pub id: u16,
    /// The offset of the thread's number in its records.
    pub pid_at: i16,
}

/// The watch over wake-ups. Ends when dropped.
#[derive(Debug)]
pub struct WakeWatch {
    threads: OwnedFd,
    _outputs: OwnedFd,
    _events: Vec<ThreadEvent>,
}

impl WakeWatch {
    /// Starts with nobody; records go into the rings of the CPUs on which they happen. Wake-ups by the calling thread are left out.
    ///
    /// # Errors
    /// Those of `bpf` and `perf_event_open`, where the host does not grant them (root has them, or `CAP_BPF` and `CAP_PERFMON`).
    pub fn open(tracepoint: WakeTracepoint, rings: &[Ring]) -> io::Result<Self> {
        if tracepoint.pid_at % 4 != 0 || !(8..=RECORD - 4).contains(&tracepoint.pid_at) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let threads = sys::bpf_map_create(MAP_HASH, MAX_THREADS, NO_PREALLOC)?;
        let nr_cpus = rings.iter().map(Ring::cpu).max().unwrap_or(0) as u32 + 1;
        let outputs = sys::bpf_map_create(MAP_PERF_EVENT_ARRAY, nr_cpus, 0)?;
        let mut events = Vec::with_capacity(rings.len() + 1);
        for ring in rings {
            let event = ThreadEvent::open(Report::Program, -1, ring)?;
            let fd = event.as_fd().as_raw_fd() as u32;
            sys::bpf_map_update(outputs.as_fd(), ring.cpu() as u32, fd)?;
            events.push(event);
        }
        let me = nix::unistd::gettid().as_raw();
        let program = program(tracepoint, me, threads.as_raw_fd(), outputs.as_raw_fd());
        let program = sys::bpf_prog_load(PROG_TRACEPOINT, &program, c"Dual MIT/GPL")?;
        let cpu = rings.first().map_or(0, Ring::cpu);
        events.push(ThreadEvent::with_program(u64::from(tracepoint.id), cpu, program.as_fd())?);
        Ok(Self { threads, _outputs: outputs, _events: events })
    }

    /// Watches a thread.
    ///
    /// # Errors
    /// `E2BIG` with too many, `ENOMEM`.
    pub fn add(&self, tid: i32) -> io::Result<()> {
        sys::bpf_map_update(self.threads.as_fd(), tid as u32, 1)
    }

    /// Watches a thread no more; it is no error if it was not.
    pub fn remove(&self, tid: i32) {
        let _ = sys::bpf_map_delete(self.threads.as_fd(), tid as u32);
    }
}

/// An instruction of the kernel's machine.
const fn op(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    code as u64 | ((to | from << 4) as u64) << 8 | (offset as u16 as u64) << 16 | (value as u32 as u64) << 32
}

/// If the waker is not `me` and who wakes is in the map `threads`: writes a record of [`RECORD`] bytes with the tracepoint's number at 0, as
/// its own records have it, and the thread at `pid_at`, into this CPU's event of the map `outputs`. Lets the tracepoint's other users see all.
fn program(tracepoint: WakeTracepoint, me: i32, threads: i32, outputs: i32) -> [u64; 27] {
    const MOV: u8 = 0xbf;
    const MOV_VALUE: u8 = 0xb7;
    const MOV32_VALUE: u8 = 0xb4;
    const ADD_VALUE: u8 = 0x07;
    const LOAD32: u8 = 0x61;
    const STORE32: u8 = 0x63;
    const STORE64_VALUE: u8 = 0x7a;
    const STORE16_VALUE: u8 = 0x6a;
    const LOAD_MAP: u8 = 0x18;
    const MAP_FD: u8 = 1;
    const CALL: u8 = 0x85;
    const JUMP_EQUAL: u8 = 0x15;
    const JUMP32_EQUAL: u8 = 0x16;
    const EXIT: u8 = 0x95;
    const LOOKUP: i32 = 1;
    const CURRENT: i32 = 14;
    const OUTPUT: i32 = 25;
    let at = -8 - RECORD;
    [
        op(MOV, 6, 1, 0, 0),
        op(CALL, 0, 0, 0, CURRENT),
        op(JUMP32_EQUAL, 0, 0, 22, me),
        op(LOAD32, 7, 6, tracepoint.pid_at, 0),
        op(STORE32, 10, 7, -4, 0),
        op(LOAD_MAP, 1, MAP_FD, 0, threads),
        0,
        op(MOV, 2, 10, 0, 0),
        op(ADD_VALUE, 2, 0, 0, -4),
        op(CALL, 0, 0, 0, LOOKUP),
        op(JUMP_EQUAL, 0, 0, 14, 0),
        op(STORE64_VALUE, 10, 0, at, 0),
        op(STORE64_VALUE, 10, 0, at + 8, 0),
        op(STORE64_VALUE, 10, 0, at + 16, 0),
        op(STORE64_VALUE, 10, 0, at + 24, 0),
        op(STORE16_VALUE, 10, 0, at, tracepoint.id as i32),
        op(STORE32, 10, 7, at + tracepoint.pid_at, 0),
        op(MOV, 1, 6, 0, 0),
        op(LOAD_MAP, 2, MAP_FD, 0, outputs),
        0,
        // The event of this CPU.
        op(MOV32_VALUE, 3, 0, 0, -1),
        op(MOV, 4, 10, 0, 0),
        op(ADD_VALUE, 4, 0, 0, at as i32),
        op(MOV_VALUE, 5, 0, 0, RECORD as i32),
        op(CALL, 0, 0, 0, OUTPUT),
        op(MOV_VALUE, 0, 0, 0, 1),
        op(EXIT, 0, 0, 0, 0),
    ]
}
