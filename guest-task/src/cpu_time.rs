//! CPU time of the calling thread.

use nix::time::{ClockId, clock_gettime};

/// Gives the CPU time that the calling thread has had, in nanoseconds: the difference of two looks is what was done between them, however often the
/// host let the thread wait. A look is a system call, of a fifth of a microsecond, say.
pub fn thread_cpu_time_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0, |now| now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}
