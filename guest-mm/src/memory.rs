//! The store that outlives a worker: words that are read and written one at a time.

use std::sync::atomic::AtomicU64;

use thiserror::Error;

/// A store could not grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the page-table store cannot grow")]
pub struct NoMemory;

/// Words that outlive the process: a mapped memfd in the driver, a vector in tests.
///
/// Every change is one store of one word. What is in the words after any store is what a new worker carries on from.
pub trait Memory {
    /// Gives a word. Called with `index < len()` only.
    fn word(&self, index: usize) -> &AtomicU64;

    /// Gives how many words there are.
    fn len(&self) -> usize;

    /// Says whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the store `words` words longer; the new ones read as zero, the old ones keep their values.
    ///
    /// # Errors
    /// If there is no memory for them. Nothing changed then.
    fn grow(&mut self, words: usize) -> Result<(), NoMemory>;
}

impl<M: Memory + ?Sized> Memory for Box<M> {
    fn word(&self, index: usize) -> &AtomicU64 {
        (**self).word(index)
    }

    fn len(&self) -> usize {
        (**self).len()
    }

    fn grow(&mut self, words: usize) -> Result<(), NoMemory> {
        (**self).grow(words)
    }
}

/// A store in ordinary memory, for tests and for what needs no second life.
#[derive(Debug, Default)]
pub struct VecMemory {
    words: Vec<AtomicU64>,
}

impl VecMemory {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a store of these words, as a snapshot of another one.
    pub fn from_words(words: Vec<u64>) -> Self {
        Self { words: words.into_iter().map(AtomicU64::new).collect() }
    }
}

impl Memory for VecMemory {
    fn word(&self, index: usize) -> &AtomicU64 {
        &self.words[index]
    }

    fn len(&self) -> usize {
        self.words.len()
    }

    fn grow(&mut self, words: usize) -> Result<(), NoMemory> {
        self.words.try_reserve(words).map_err(|_| NoMemory)?;
        self.words.extend((0..words).map(|_| AtomicU64::new(0)));
        Ok(())
    }
}
