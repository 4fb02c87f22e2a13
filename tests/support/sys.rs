//! What no safe library has: a way into the actor before the test harness starts, and `semtimedop(2)`.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

/// Runs before `main`, so that an actor is a process without the harness's threads.
extern "C" fn before_main() {
    super::actor::play_if_asked();
}

#[used]
// SAFETY: a function of the type that the C library calls for each entry of this section, after the standard library's own.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

/// Waits on a new System V semaphore that nobody raises. Gives the error at the end: `EAGAIN` when the time is over.
pub fn wait_on_semaphore(time: Duration) -> io::Error {
    let mut op = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
    let timeout =
        libc::timespec { tv_sec: time.as_secs() as libc::time_t, tv_nsec: i64::from(time.subsec_nanos()) };
    // SAFETY: takes no memory.
    let id = unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) };
    if id < 0 {
        return io::Error::last_os_error();
    }
    // SAFETY: `op` and `timeout` live through the call, which reads them only.
    unsafe { libc::syscall(libc::SYS_semtimedop, id, &raw mut op, 1usize, &raw const timeout) };
    let error = io::Error::last_os_error();
    // SAFETY: this command takes no further argument.
    unsafe { libc::semctl(id, 0, libc::IPC_RMID) };
    error
}
