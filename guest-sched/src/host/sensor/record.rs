//! Records of perf, as far as the sensor asks for them.

use host_sys::perf::RawRecord;

use super::Tracepoints;
use crate::types::{Nanos, Sleep};

const RECORD_LOST: u32 = 2;
const RECORD_COMM: u32 = 3;
const RECORD_EXIT: u32 = 4;
const RECORD_FORK: u32 = 7;
const RECORD_SAMPLE: u32 = 9;
const RECORD_SWITCH: u32 = 14;
const MISC_COMM_EXEC: u16 = 1 << 13;
const MISC_SWITCH_OUT: u16 = 1 << 13;
const MISC_SWITCH_OUT_PREEMPT: u16 = 1 << 14;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The thread left the host's runqueue.
    Out {
        /// The thread.
        tid: i32,
        /// How it sleeps.
        how: Sleep,
        /// Whether that may have been our doing: a wait that signals end, as a parked task's is; no other wait, no stop.
        may_be_parked: bool,
    },
    /// The thread was put on the host's runqueue, or (switch records) runs.
    Wake {
        /// The thread.
        tid: i32,
    },
    /// A thread or process was started.
    Fork {
        /// Its process.
        pid: i32,
        /// Its thread.
        tid: i32,
        /// The process that started it.
        ppid: i32,
        /// The thread that started it.
        ptid: i32,
    },
    /// A thread ended, or the kernel stopped watching it (exec of a setuid program).
    Exit {
        /// Its process.
        pid: i32,
        /// The thread.
        tid: i32,
    },
    /// A process executed another program.
    Exec {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
    },
    /// Records were lost: what is known of the members may be wrong.
    Lost,
}

/// Something that happened to a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// When, by the monotonic clock.
    pub time: Nanos,
    /// On which CPU.
    pub cpu: i32,
    /// What.
    pub what: What,
}

fn u32_at(body: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?))
}

fn i32_at(body: &[u8], at: usize) -> Option<i32> {
    u32_at(body, at).map(|v| v as i32)
}

fn u64_at(body: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(body.get(at..at + 8)?.try_into().ok()?))
}

/// The time in the trailer that every record but a sample has: pid, tid, time, cpu, reserved.
fn trailer(body: &[u8]) -> Option<(i32, u64)> {
    let at = body.len().checked_sub(24)?;
    Some((i32_at(body, at + 4)?, u64_at(body, at + 8)?))
}

/// Reads a record; `None` for one that says nothing of interest.
pub fn parse(raw: RawRecord<'_>, cpu: i32, tracepoints: Option<&Tracepoints>) -> Option<Record> {
    let body = raw.body;
    let (time, what) = match raw.kind {
        RECORD_SAMPLE => {
            // pid, tid, time, cpu, reserved, raw size, raw data.
            let (tid, time) = (i32_at(body, 4)?, u64_at(body, 8)?);
            let data = body.get(28..)?;
            let tp = tracepoints?;
            let kind = u64::from(u16::from_ne_bytes(data.get(..2)?.try_into().ok()?));
            let what = if kind == tp.switch.id {
                let state = u64_at(data, tp.switch.field)?;
                What::Out { tid, how: how(state), may_be_parked: state == TASK_INTERRUPTIBLE }
            } else {
                What::Wake { tid: i32_at(data, tp.wakeup.field)? }
            };
            (time, what)
        }
        RECORD_SWITCH => {
            let (tid, time) = trailer(body)?;
            if raw.misc & MISC_SWITCH_OUT == 0 {
                (time, What::Wake { tid })
            } else if raw.misc & MISC_SWITCH_OUT_PREEMPT == 0 {
                (time, What::Out { tid, how: Sleep::Interruptible, may_be_parked: true })
            } else {
                return None;
            }
        }
        RECORD_FORK | RECORD_EXIT => {
            let (pid, ppid, tid, ptid) =
                (i32_at(body, 0)?, i32_at(body, 4)?, i32_at(body, 8)?, i32_at(body, 12)?);
            let time = u64_at(body, 16)?;
            let what = if raw.kind == RECORD_FORK {
                What::Fork { pid, tid, ppid, ptid }
            } else {
                What::Exit { pid, tid }
            };
            (time, what)
        }
        RECORD_COMM if raw.misc & MISC_COMM_EXEC != 0 => {
            (trailer(body)?.1, What::Exec { pid: i32_at(body, 0)?, tid: i32_at(body, 4)? })
        }
        RECORD_LOST => (trailer(body)?.1, What::Lost),
        _ => return None,
    };
    Some(Record { time: Nanos(time), cpu, what })
}

const TASK_INTERRUPTIBLE: u64 = 1;

/// Reads the state of a task that leaves the runqueue, as `sched_switch` gives it.
fn how(prev_state: u64) -> Sleep {
    const TASK_UNINTERRUPTIBLE: u64 = 2;
    if prev_state & TASK_UNINTERRUPTIBLE != 0 { Sleep::Uninterruptible } else { Sleep::Interruptible }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_record_is_parsed() {
        let mut body = Vec::new();
        for v in [7i32, 5, 8, 6] {
            body.extend(v.to_ne_bytes());
        }
        body.extend(99u64.to_ne_bytes());
        body.extend([0u8; 24]);

        let record = parse(RawRecord { kind: RECORD_FORK, misc: 0, body: &body }, 1, None);

        let what = What::Fork { pid: 7, tid: 8, ppid: 5, ptid: 6 };
        assert_eq!(record, Some(Record { time: Nanos(99), cpu: 1, what }));
    }

    #[test]
    fn truncated_record_is_none() {
        for kind in [RECORD_LOST, RECORD_COMM, RECORD_EXIT, RECORD_FORK, RECORD_SAMPLE, RECORD_SWITCH] {
            for len in 0..20 {
                let body = vec![0xff; len];
                assert_eq!(parse(RawRecord { kind, misc: 0xffff, body: &body }, 0, None), None);
            }
        }
    }
}
