//! Where a simulation takes its choices from.

/// A source of choices: the bytes of a test case, or a seeded generator.
#[derive(Clone, Debug)]
pub enum Entropy {
    /// Bytes, and how many of them are used up. After the last one come zeros.
    Bytes(Vec<u8>, usize),
    /// A generator's state (xorshift64*).
    Seed(u64),
}

impl Entropy {
    /// Takes choices from bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec(), 0)
    }

    /// Takes choices from a generator.
    pub fn from_seed(seed: u64) -> Self {
        Self::Seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Says whether there are no more bytes; never of a generator.
    pub fn is_used_up(&self) -> bool {
        matches!(self, Self::Bytes(bytes, at) if *at >= bytes.len())
    }

    /// Gives 64 bits of a generator, or one byte.
    pub fn draw(&mut self) -> u64 {
        match self {
            Self::Bytes(bytes, at) => {
                let byte = bytes.get(*at).copied().unwrap_or(0);
                *at += 1;
                u64::from(byte)
            }
            Self::Seed(state) => {
                *state ^= *state >> 12;
                *state ^= *state << 25;
                *state ^= *state >> 27;
                state.wrapping_mul(0x2545_f491_4f6c_dd1d)
            }
        }
    }

    /// Gives a number below `n`; 0 if `n` is.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        match self {
            Self::Bytes(..) if n > 256 => (self.draw() << 8 | self.draw()) % n,
            Self::Bytes(..) => self.draw() % n,
            Self::Seed(_) => (self.draw() >> 16) % n,
        }
    }

    /// Says yes once in `n` times; to zeros, no.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }
}
