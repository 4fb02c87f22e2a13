//! How many pages a fault brings in: adaptive, per address space.
//!
//! There is no accessed bit, so a page read ahead is seen to be of use only when it is written to, or when the next fault comes
//! right behind what was read: then the faulter walked over all of it. What does not fault, as it is resident, does not
//! interrupt that. Each such fault doubles the stream's window; a fault that belongs to no stream starts one of one page.

use crate::types::Vpn;

/// So many pages that cannot fault are passed over at most.
pub(crate) const GAP: u64 = 16;
/// How many streams a space has: interleaved walks, as over two arrays, keep their windows.
const STREAMS: usize = 8;

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// The page a walk upwards would fault on next.
    next: u64,
    /// The page a walk downwards would fault on next.
    before: u64,
    window: u32,
    /// When it was used last.
    used: u32,
}

/// The direction and size of what a fault brings in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    /// How many pages, the faulting one included.
    pub(crate) nr: u32,
    pub(crate) is_downwards: bool,
    /// How many pages read ahead before this fault proves used.
    pub(crate) hits: u32,
    stream: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Readahead {
    streams: [Stream; STREAMS],
    clock: u32,
}

impl Readahead {
    /// Says how much a fault that must read should bring in; `below` and `above` are how many pages beside it could not fault.
    pub(crate) fn window(&mut self, vpn: Vpn, max: u32, below: u64, above: u64) -> Window {
        self.clock = self.clock.wrapping_add(1);
        let goes_up = |s: &Stream| (vpn.0.saturating_sub(below)..=vpn.0).contains(&s.next);
        let goes_down = |s: &Stream| (vpn.0..=vpn.0 + above).contains(&s.before);
        let known = self.streams.iter().position(|s| s.window > 0 && (goes_up(s) || goes_down(s)));
        match known {
            Some(stream) => {
                let window = self.streams[stream].window;
                let nr = (window * 2).min(max);
                let is_downwards = !goes_up(&self.streams[stream]);
                Window { nr, is_downwards, hits: window.saturating_sub(1), stream }
            }
            None => {
                let age = |s: &Stream| if s.window == 0 { u32::MAX } else { self.clock.wrapping_sub(s.used) };
                let oldest =
                    self.streams.iter().enumerate().max_by_key(|(_, s)| age(s)).map_or(0, |(at, _)| at);
                Window { nr: 1, is_downwards: false, hits: 0, stream: oldest }
            }
        }
    }

    /// Says what the fault really brought in: pages from `vpn` on, in the window's direction, the last one `far` from it.
    pub(crate) fn record(&mut self, vpn: Vpn, window: Window, far: u64) {
        let (low, high) =
            if window.is_downwards { (vpn.0.saturating_sub(far), vpn.0) } else { (vpn.0, vpn.0 + far) };
        let stream = &mut self.streams[window.stream];
        // A window that a neighbour cut short keeps its size for the next fault.
        stream.window = window.nr;
        stream.used = self.clock;
        stream.next = high + 1;
        stream.before = low.wrapping_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(readahead: &mut Readahead, from: u64, nr: usize, max: u32) -> Vec<u32> {
        let mut at = from;
        (0..nr)
            .map(|_| {
                let window = readahead.window(Vpn(at), max, 0, 0);
                readahead.record(Vpn(at), window, u64::from(window.nr - 1));
                at += u64::from(window.nr);
                window.nr
            })
            .collect()
    }

    #[test]
    fn sequential_faults_double_the_window() {
        assert_eq!(walk(&mut Readahead::default(), 100, 7, 32), [1, 2, 4, 8, 16, 32, 32]);
        assert_eq!(walk(&mut Readahead::default(), 100, 3, 1), [1, 1, 1]);
    }

    #[test]
    fn scattered_faults_read_one_page() {
        let mut readahead = Readahead::default();
        for i in 1..100 {
            assert_eq!(walk(&mut readahead, i * 1000, 1, 32), [1]);
        }
    }

    #[test]
    fn interleaved_walks_keep_their_windows() {
        let mut readahead = Readahead::default();
        let (mut a, mut b) = (0, 1 << 20);
        for round in 0..6 {
            for at in [&mut a, &mut b] {
                let window = readahead.window(Vpn(*at), 32, 0, 0);
                assert_eq!(window.nr, 1 << round.min(5));
                readahead.record(Vpn(*at), window, u64::from(window.nr - 1));
                *at += u64::from(window.nr);
            }
        }
    }

    #[test]
    fn downward_walks_are_seen() {
        let mut readahead = Readahead::default();
        let first = readahead.window(Vpn(100), 8, 0, 0);
        readahead.record(Vpn(100), first, 0);
        let second = readahead.window(Vpn(99), 8, 0, 0);
        assert_eq!((second.nr, second.is_downwards), (2, true));
    }

    #[test]
    fn pages_that_cannot_fault_do_not_end_a_walk() {
        let mut readahead = Readahead::default();
        let first = readahead.window(Vpn(100), 8, 5, 5);
        readahead.record(Vpn(100), first, 0);
        let second = readahead.window(Vpn(104), 8, 3, 0);
        assert_eq!((second.nr, second.is_downwards), (2, false));
        readahead.record(Vpn(104), second, 4);

        assert_eq!(readahead.window(Vpn(120), 8, 5, 5).nr, 1, "pages were left out");
        assert_eq!(readahead.window(Vpn(100), 8, 0, 3).nr, 4);
    }
}
