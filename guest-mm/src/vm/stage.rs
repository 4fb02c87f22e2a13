//! The places of the staging area, and who is in them.

use crate::error::VmError;
use crate::frames::NIL;
use crate::types::{SlotId, StageId};

#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// A descriptor of the ring whose data is here; [`NIL`] if none.
    pub(crate) head: u32,
    /// The slot it is being written to.
    pub(crate) target: Option<SlotId>,
    /// How many are copying it back.
    pub(crate) pins: u16,
    pub(crate) is_free: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Stages {
    pub(crate) places: Vec<Stage>,
    free: Vec<u32>,
    limit: u32,
}

impl Stages {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn resize(&mut self, limit: u32) -> Result<(), VmError> {
        if self.places.iter().skip(limit as usize).any(|place| !place.is_free) {
            return Err(VmError::BadConfig("staging_pages, of which more are in use"));
        }
        let known = self.places.len() as u32;
        self.places.truncate(limit as usize);
        self.free.retain(|stage| *stage < limit);
        for _ in known..limit {
            self.places.push(Stage { head: NIL, target: None, pins: 0, is_free: true });
        }
        if known < limit {
            self.free.splice(0..0, (known..limit).rev());
        }
        self.limit = limit;
        Ok(())
    }

    pub(crate) fn nr_free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    pub(crate) fn alloc(&mut self, head: u32) -> Option<StageId> {
        let stage = self.free.pop()?;
        self.places[stage as usize] = Stage { head, target: None, pins: 0, is_free: false };
        Some(StageId(stage))
    }

    /// Takes a place that the store names.
    pub(crate) fn claim(&mut self, stage: StageId, head: u32) {
        let at = stage.0 as usize;
        if self.places.len() <= at {
            let known = self.places.len() as u32;
            let new = known..=stage.0;
            self.places.extend(new.map(|_| Stage { head: NIL, target: None, pins: 0, is_free: true }));
        }
        if self.places[at].is_free {
            self.free.retain(|free| *free != stage.0);
        }
        self.places[at] = Stage { head, target: None, pins: 0, is_free: false };
    }

    pub(crate) fn free(&mut self, stage: StageId) {
        let place = &mut self.places[stage.0 as usize];
        debug_assert!(!place.is_free);
        *place = Stage { head: NIL, target: None, pins: 0, is_free: true };
        if stage.0 < self.limit {
            self.free.push(stage.0);
        }
    }

    pub(crate) fn get(&self, stage: StageId) -> Option<&Stage> {
        self.places.get(stage.0 as usize).filter(|place| !place.is_free)
    }

    pub(crate) fn at(&mut self, stage: StageId) -> &mut Stage {
        &mut self.places[stage.0 as usize]
    }
}
