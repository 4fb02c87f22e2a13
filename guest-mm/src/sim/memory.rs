//! A store that can be cut off at any access.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::{Memory, NoMemory, VecMemory};

/// What the test does to a store while the core uses it.
#[derive(Debug, Default)]
pub struct Control {
    /// After so many accesses the words are copied.
    countdown: Cell<Option<u64>>,
    snapshot: RefCell<Option<Vec<u64>>>,
    /// Whether the store refuses to grow.
    pub is_full: Cell<bool>,
}

impl Control {
    /// Copies the words before the access number `accesses` from now on.
    pub fn cut_after(&self, accesses: u64) {
        self.countdown.set(Some(accesses));
    }

    /// Gives the copy if it was made.
    pub fn take_snapshot(&self) -> Option<Vec<u64>> {
        self.snapshot.borrow_mut().take()
    }

    /// Says whether a copy was made and not taken.
    pub fn is_cut(&self) -> bool {
        self.snapshot.borrow().is_some()
    }
}

/// A store that is copied before one access to it: what a worker leaves that ends there.
///
/// Each store is one access, so that a cut may fall between any two stores.
#[derive(Debug, Default)]
pub struct CutMemory {
    words: VecMemory,
    control: Rc<Control>,
}

impl CutMemory {
    /// Makes an empty store.
    pub fn new(control: Rc<Control>) -> Self {
        Self { words: VecMemory::new(), control }
    }

    /// Makes a store of these words.
    pub fn from_words(words: Vec<u64>, control: Rc<Control>) -> Self {
        Self { words: VecMemory::from_words(words), control }
    }

    /// Copies the words.
    pub fn words(&self) -> Vec<u64> {
        (0..self.words.len()).map(|at| self.words.word(at).load(Ordering::Relaxed)).collect()
    }
}

impl Memory for CutMemory {
    fn word(&self, index: usize) -> &AtomicU64 {
        match self.control.countdown.get() {
            Some(0) => {
                self.control.countdown.set(None);
                *self.control.snapshot.borrow_mut() = Some(self.words());
            }
            Some(left) => self.control.countdown.set(Some(left - 1)),
            None => {}
        }
        self.words.word(index)
    }

    fn len(&self) -> usize {
        self.words.len()
    }

    fn grow(&mut self, words: usize) -> Result<(), NoMemory> {
        if self.control.is_full.get() { Err(NoMemory) } else { self.words.grow(words) }
    }
}
