//! What is measured: one file for each kind of promise.

mod apart;
mod caps;
mod programs;
mod share;
mod unused;
mod wakeup;
mod work;

use anyhow::Result;

use super::Bench;
use super::report::Row;

/// A case.
pub(super) struct Case {
    /// What `--only` calls it.
    pub(super) letter: &'static str,
    /// What it measures.
    pub(super) what: &'static str,
    /// Measures it.
    pub(super) run: fn(&Bench) -> Result<Vec<Row>>,
}

/// All of them.
pub(super) const ALL: &[Case] = &[
    Case { letter: "a", what: "the session: A alone, B and C in a group", run: share::session },
    Case { letter: "b", what: "the share of a group of 2 to 1000", run: share::crowd },
    Case { letter: "c", what: "what the worker costs", run: work::worker_cost },
    Case { letter: "d", what: "work done in a group", run: work::work_done },
    Case { letter: "e", what: "wake-up latency beside a busy member", run: wakeup::interactive },
    Case { letter: "f", what: "caps: accuracy, and the longest wait", run: caps::caps },
    Case { letter: "g", what: "guest nice 0 against 19", run: apart::nice },
    Case { letter: "h", what: "groups of 1, 10 and 100 side by side", run: apart::side_by_side },
    Case { letter: "i", what: "a host on which no group works", run: unused::unused },
    Case { letter: "j", what: "stress-ng in a group", run: programs::stress },
    Case { letter: "k", what: "a build in a full-share group", run: programs::build },
];

/// What a reader of the table has to know.
pub(super) const NOTES: &str = "\
A, B, C and hogs are busy loops pinned to the measured CPU; members are put into a group by `rename` in the control tree, \
or by a write to `cgroup.procs` for the peer. *cgroup* is a cpu cgroup of default weight (`cpu.shares` 1024); \
*quota* is its CFS bandwidth limit with the same quota and period. \
The work in (d) is rounds of a loop over 128 KiB. In (e) a member sleeps 10 ms and works 0.5 ms, beside a hog in the same group and a hog \
outside. In (f) one busy loop has the CPU for itself; *longest wait* is the longest time in which it did not run. \
In (i) ours and bare take turns; wake-ups are voluntary context switches of all our processes together. \
In (k) the group has as many vcpus as the host has CPUs, and no cap.\n";
