//! What must always hold, for tests and fuzzers.

use crate::frames::{NIL, Phase, Queue};
use crate::memory::Memory;
use crate::table::{Pte, State};
use crate::types::{StageId, Vpn};
use crate::vm::Vm;

impl<M: Memory> Vm<M> {
    /// Checks everything that must always hold; says what does not. Cost: several passes over everything.
    ///
    /// # Errors
    /// A sentence about the first thing that is wrong.
    pub fn check_invariants(&self) -> Result<(), String> {
        let mut nr_resident = 0;
        for space in self.spaces() {
            let known = self.space(space).map_err(|e| e.to_string())?;
            let mut counts = (0, 0, 0);
            let mut at = 0;
            while let Some((vpn, word)) = self.tables.next(known.root, at, Vpn::LIMIT) {
                at = vpn.0 + 1;
                let pte = Pte(word);
                match pte.state() {
                    State::None => {}
                    State::Resident => counts.0 += 1,
                    State::Staged => counts.1 += 1,
                    State::Swapped => counts.2 += 1,
                }
                let id = match pte.stage() {
                    Some(stage) => Some(
                        self.member(stage, space, vpn)
                            .ok_or_else(|| format!("{vpn:?}: staged in {stage:?}, where it is not"))?,
                    ),
                    None => pte.frame().map(|frame| frame.0),
                };
                let Some(id) = id else { continue };
                let frame =
                    self.frames.table.get(id as usize).ok_or_else(|| format!("{vpn:?}: no frame {id}"))?;
                if frame.space != space || frame.vpn != vpn || frame.is_dead || frame.phase == Phase::Free {
                    return Err(format!("{space:?} {vpn:?}: frame {id} is another's: {frame:?}"));
                }
                if frame.slot != pte.slot() {
                    return Err(format!("{space:?} {vpn:?}: {:?} in the table, {frame:?}", pte.slot()));
                }
                if pte.state() == State::Resident {
                    nr_resident += 1;
                    if frame.phase != Phase::Resident {
                        return Err(format!("{space:?} {vpn:?}: resident, but {frame:?}"));
                    }
                }
            }
            if counts != (known.resident, known.staged, known.swapped) {
                return Err(format!("{space:?}: counted {counts:?}"));
            }
        }
        if nr_resident != self.nr_queued() {
            return Err(format!("{nr_resident} resident, {} queued", self.nr_queued()));
        }
        self.check_charges()?;
        self.check_stages()
    }

    fn check_stages(&self) -> Result<(), String> {
        let mut in_flight = 0;
        let mut queued = 0;
        for frame in &self.frames.table {
            in_flight += u64::from(match frame.phase {
                Phase::Moving => true,
                Phase::Dropping => frame.stage.is_none(),
                _ => false,
            });
            queued += u32::from(frame.queue == Queue::Staged);
            if let Some(stage) = frame.stage.filter(|stage| self.stages.get(*stage).is_none()) {
                return Err(format!("{stage:?} is free, but {frame:?}"));
            }
        }
        for (at, place) in self.stages.places.iter().enumerate() {
            if place.is_free || place.head == NIL {
                continue;
            }
            let head = &self.frames.table[place.head as usize];
            if head.stage != Some(StageId(at as u32)) {
                return Err(format!("place {at} has {head:?}"));
            }
            in_flight += u64::from(matches!(head.phase, Phase::Writing | Phase::Dropping));
        }
        if in_flight != self.nr_in_flight {
            return Err(format!("{in_flight} in flight, {} counted", self.nr_in_flight));
        }
        if queued != self.frames.staged.len {
            return Err(format!("{queued} queued as staged, {} counted", self.frames.staged.len));
        }
        Ok(())
    }

    fn check_charges(&self) -> Result<(), String> {
        let mut rings = 0;
        let mut copies = 0;
        for (id, frame) in self.frames.table.iter().enumerate() {
            if frame.phase == Phase::Free {
                continue;
            }
            copies += u64::from(frame.has_copy);
            let mut at = frame.ring;
            let mut is_first = true;
            while at != id as u32 {
                is_first &= at > id as u32;
                at = self.frames.table[at as usize].ring;
            }
            rings += u64::from(is_first);
        }
        if rings + copies != self.frames.charged {
            return Err(format!("{rings} rings, {copies} copies, {} charged", self.frames.charged));
        }
        Ok(())
    }
}
