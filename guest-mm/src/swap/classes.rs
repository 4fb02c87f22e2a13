//! The size classes of a byte pool, as in zsmalloc: objects of one size fill a span of one to four pages.

/// The finest step of sizes, in bytes.
const STEP: u32 = 64;
/// Sizes above are not worth compressing.
pub(crate) const LARGEST: u32 = 3072;
const FINE: u32 = 1024;
/// How many classes there are: 64 to 1024 by 64, then to 3072 by 128.
pub(crate) const NR_CLASSES: usize = 32;

/// Gives the class of `len` bytes; `None` above [`LARGEST`].
pub(crate) const fn class_of(len: u32) -> Option<usize> {
    if len == 0 {
        Some(0)
    } else if len <= FINE {
        Some((len.div_ceil(STEP) - 1) as usize)
    } else if len <= LARGEST {
        Some((15 + (len - FINE).div_ceil(2 * STEP)) as usize)
    } else {
        None
    }
}

/// Gives the size of a class's objects, in bytes.
pub(crate) const fn size_of(class: usize) -> u32 {
    if class < 16 { (class as u32 + 1) * STEP } else { FINE + (class as u32 - 15) * 2 * STEP }
}

/// Gives how many pages a class's spans have: the fewest that leave at most an eighth unused, else the best of four.
pub(crate) const fn span_of(class: usize) -> u32 {
    let size = size_of(class);
    let (mut best, mut least) = (1, u32::MAX);
    let mut pages = 1;
    while pages <= 4 {
        let waste = (pages * 4096) % size * 4096 / (pages * 4096);
        if waste <= 512 {
            return pages;
        }
        if waste < least {
            (best, least) = (pages, waste);
        }
        pages += 1;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_fits_its_class() {
        for len in 1..=LARGEST {
            let class = class_of(len).expect("a class");
            assert!(class < NR_CLASSES && size_of(class) >= len, "{len}");
            assert!(class == 0 || size_of(class - 1) < len, "{len}");
        }
        assert_eq!(class_of(LARGEST + 1), None);
    }

    #[test]
    fn spans_waste_little() {
        for class in 0..NR_CLASSES {
            let bytes = span_of(class) * 4096;
            let waste = bytes % size_of(class);
            assert!(waste * 8 <= bytes, "{}: {waste} of {bytes}", size_of(class));
        }
    }
}
