//! The set of vcpus that have nothing to run.

use crate::types::Vcpu;

const WORDS: usize = (Vcpu::LIMIT as usize).div_ceil(64);

/// A bitmap over vcpus: finding one takes at most sixteen words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdleSet {
    bits: [u64; WORDS],
    nr: u16,
}

impl IdleSet {
    /// Adds or takes out a vcpu.
    pub(crate) fn set(&mut self, vcpu: u16, is_idle: bool) {
        let (word, bit) = (usize::from(vcpu / 64), 1 << (vcpu % 64));
        if self.contains(vcpu) != is_idle {
            self.bits[word] ^= bit;
            if is_idle {
                self.nr += 1;
            } else {
                self.nr -= 1;
            }
        }
    }

    /// Says whether a vcpu is in the set.
    pub(crate) fn contains(&self, vcpu: u16) -> bool {
        self.bits[usize::from(vcpu / 64)] >> (vcpu % 64) & 1 == 1
    }

    /// Gives the lowest vcpu in the set.
    pub(crate) fn first(&self) -> Option<u16> {
        if self.nr == 0 {
            return None;
        }
        let word = self.bits.iter().position(|&bits| bits != 0)?;
        Some((word * 64) as u16 + self.bits[word].trailing_zeros() as u16)
    }

    /// Gives the number of vcpus in the set.
    pub(crate) const fn len(&self) -> u16 {
        self.nr
    }
}
