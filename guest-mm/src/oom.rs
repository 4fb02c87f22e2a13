//! Which member dies when there is no frame and nothing to reclaim.
//!
//! From Linux 2.6.18's oom_kill.c, adapted to a pool: points are the pages a candidate holds of *this pool* (frames, slots and
//! unmanaged ones; 2.6.18 takes the whole address space, which says little about what a kill would free here), and half of each
//! child's. Divided by the square root of its CPU time in units of 8 s and the fourth root of its age in units of 1024 s; doubled
//! for positive nice values; quartered for root; shifted by `oom_adj`. Raw I/O rights make no difference here: no member
//! has less of the pool for having them. The member that 2.6.18 would spare as init is the caller's to leave out.

use crate::types::Nanos;

/// A member that might be killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Candidate {
    /// Its process.
    pub pid: u32,
    /// Pages of the pool that it holds: resident, swapped and unmanaged.
    pub pages: u64,
    /// Pages that its children with address spaces of their own hold.
    pub child_pages: u64,
    /// How many such children it has.
    pub nr_children: u32,
    /// CPU time it has used.
    pub cpu_time: Nanos,
    /// How long it has been running.
    pub run_time: Nanos,
    /// Its nice value.
    pub nice: i8,
    /// Whether it has the rights of root.
    pub is_root: bool,
    /// -17: never; else points are shifted left or right by so much, -16..=15.
    pub oom_adj: i8,
    /// Whether it is on its way out: then nobody need be killed yet.
    pub is_exiting: bool,
}

/// Gives a candidate's points. A constant number of steps.
pub fn badness(candidate: &Candidate) -> u64 {
    if candidate.oom_adj <= -17 || candidate.pages == 0 {
        return 0;
    }
    let mut points = candidate
        .pages
        .saturating_add(candidate.child_pages / 2)
        .saturating_add(u64::from(candidate.nr_children));
    let cpu_units = candidate.cpu_time.0 / 8_000_000_000;
    points /= cpu_units.isqrt().max(1);
    let run_units = candidate.run_time.0 / 1_024_000_000_000;
    points /= run_units.isqrt().isqrt().max(1);
    if candidate.nice > 0 {
        points = points.saturating_mul(2);
    }
    if candidate.is_root {
        points /= 4;
    }
    match candidate.oom_adj {
        adj if adj > 0 => points.max(1).saturating_mul(1 << adj.min(15)),
        adj => points >> adj.unsigned_abs().min(16),
    }
}

/// What is to be done when there is no frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OomChoice {
    /// A candidate is on its way out already: wait for it.
    Wait {
        /// Which.
        pid: u32,
    },
    /// Kill this one.
    Kill {
        /// Which.
        pid: u32,
        /// Its points.
        points: u64,
    },
    /// Nobody may be killed.
    Nobody,
}

/// Chooses who dies; of equals, the one that comes first. Linear in the candidates.
pub fn oom_victim(candidates: &[Candidate]) -> OomChoice {
    if let Some(exiting) = candidates.iter().find(|c| c.is_exiting && c.pages > 0) {
        return OomChoice::Wait { pid: exiting.pid };
    }
    let mut worst = OomChoice::Nobody;
    let mut most = 0;
    for candidate in candidates {
        let points = badness(candidate);
        if points > most {
            most = points;
            worst = OomChoice::Kill { pid: candidate.pid, points };
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(pid: u32, pages: u64) -> Candidate {
        Candidate { pid, pages, ..Candidate::default() }
    }

    #[test]
    fn largest_of_equals_dies() {
        let all = [candidate(1, 10), candidate(2, 100), candidate(3, 99)];
        assert_eq!(oom_victim(&all), OomChoice::Kill { pid: 2, points: 100 });
        assert_eq!(oom_victim(&[]), OomChoice::Nobody);
    }

    #[test]
    fn exempt_and_exiting_are_respected() {
        let exempt = Candidate { oom_adj: -17, ..candidate(1, 1000) };
        assert_eq!(oom_victim(&[exempt]), OomChoice::Nobody);
        let exiting = Candidate { is_exiting: true, ..candidate(2, 1) };
        assert_eq!(oom_victim(&[exempt, candidate(3, 9), exiting]), OomChoice::Wait { pid: 2 });
    }

    #[test]
    fn old_and_busy_are_spared() {
        let young = candidate(1, 1000);
        let old = Candidate {
            cpu_time: Nanos(8_000_000_000 * 100),
            run_time: Nanos(1_024_000_000_000 * 16),
            ..candidate(2, 10_000)
        };
        assert_eq!(badness(&old), 500);
        assert_eq!(oom_victim(&[old, young]), OomChoice::Kill { pid: 1, points: 1000 });
        let adjusted = Candidate { oom_adj: 2, ..old };
        assert_eq!(badness(&adjusted), 2000);
    }
}
