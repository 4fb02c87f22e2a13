//! The raw system calls: one operation each, errors as [`io::Error`].
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn own(fd: libc::c_long) -> OwnedFd {
    // SAFETY: only called with a descriptor that the kernel has just returned to us, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Takes over a descriptor that `accept` or `recvmsg` has just given us.
pub(crate) fn own_received(fd: i32) -> OwnedFd {
    own(fd.into())
}

/// A mapping of 64-bit words, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Words {
    start: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping belongs to the value and is only reached through atomics.
unsafe impl Send for Words {}
// SAFETY: as above: shared access is atomic access.
unsafe impl Sync for Words {}

impl Words {
    /// Maps `len` words of `fd` from its start, shared.
    pub(crate) fn map(fd: BorrowedFd<'_>, len: usize, writable: bool) -> io::Result<Self> {
        let prot = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), len * 8, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, len })
    }

    pub(crate) fn as_slice(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is `len` words long, page-aligned, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Copies bytes out of the words from byte `from` on; the caller stays inside the mapping.
    pub(crate) fn copy_bytes(&self, from: usize, to: &mut [u8]) {
        assert!(from + to.len() <= self.len * 8, "copy inside the mapping");
        // SAFETY: the range is inside the mapping (asserted); the kernel writes a ring's unread part no more, so that there is no race.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.start.as_ptr().cast::<u8>().add(from),
                to.as_mut_ptr(),
                to.len(),
            );
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `map` has mapped; no reference outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len * 8) };
    }
}

pub(crate) fn perf_event_open(attr: &crate::perf::Attr, pid: i32, cpu: i32) -> io::Result<OwnedFd> {
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    // SAFETY: `attr` is a complete `perf_event_attr` whose `size` field says its size.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC) };
    check(fd).map(own)
}

pub(crate) fn perf_ioctl(fd: BorrowedFd<'_>, request: u64, arg: u64) -> io::Result<()> {
    // SAFETY: the requests used here take an integer argument.
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, arg) })).map(drop)
}

pub(crate) fn perf_ioctl_str(fd: BorrowedFd<'_>, request: u64, arg: &CStr) -> io::Result<()> {
    // SAFETY: the request reads a NUL-terminated string, which `arg` is.
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, arg.as_ptr()) })).map(drop)
}

fn bpf(command: libc::c_long, attr: &[u64; 16]) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is longer than the parts of the kernel's union that its commands used here read; pointers in it are the callers' affair.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) })
}

/// Two 32-bit words as they lie in memory.
fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Makes a map with keys and values of 4 bytes.
pub(crate) fn bpf_map_create(kind: u32, max_entries: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = [0; 16];
    (attr[0], attr[1], attr[2]) = (pair(kind, 4), pair(4, max_entries), pair(flags, 0));
    bpf(0, &attr).map(own)
}

pub(crate) fn bpf_map_update(map: BorrowedFd<'_>, key: u32, value: u32) -> io::Result<()> {
    let mut attr = [0; 16];
    // The kernel reads 4 bytes at each of the two, which live through the call.
    (attr[0], attr[1], attr[2]) =
        (pair(map.as_raw_fd() as u32, 0), &raw const key as u64, &raw const value as u64);
    bpf(2, &attr).map(drop)
}

pub(crate) fn bpf_map_delete(map: BorrowedFd<'_>, key: u32) -> io::Result<()> {
    let mut attr = [0; 16];
    // As above.
    (attr[0], attr[1]) = (pair(map.as_raw_fd() as u32, 0), &raw const key as u64);
    bpf(3, &attr).map(drop)
}

pub(crate) fn bpf_prog_load(kind: u32, instructions: &[u64], licence: &CStr) -> io::Result<OwnedFd> {
    let mut attr = [0; 16];
    // The kernel reads so many instructions and a terminated string, which live through the call.
    attr[0] = pair(kind, instructions.len() as u32);
    (attr[1], attr[2]) = (instructions.as_ptr() as u64, licence.as_ptr() as u64);
    bpf(5, &attr).map(own)
}

pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map(own)
}

pub(crate) fn pidfd_send_signal(fd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed.
    let r = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check(r).map(drop)
}

/// `fork` whose child shares our file descriptor table. Gives 0 in the child.
pub(crate) fn fork_files() -> io::Result<i32> {
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork: the child runs on a copy of our memory; callers are single-threaded (asserted by them),
    // so no lock can be held by a thread that is not there any more.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) };
    check(pid).map(|pid| pid as i32)
}

/// Makes a child that writes `1` to a file when the calling thread has died, and does nothing else; gives its PID. It writes to `ready` as
/// soon as it will hear of that.
pub(crate) fn fork_last_will(file: BorrowedFd<'_>, ready: BorrowedFd<'_>) -> io::Result<i32> {
    const SIGNAL: i32 = libc::SIGUSR2;
    // SAFETY: integers only.
    let parent = unsafe { libc::getpid() };
    // SAFETY: without CLONE_VM this is a fork. The process may have other threads, of which the child has none: until it ends it makes
    // system calls only, and takes no lock and no memory.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0usize, 0usize, 0usize, 0usize) })?;
    if pid != 0 {
        return Ok(pid as i32);
    }
    // SAFETY: calls of the child's own thread on its own descriptors and on values of this frame, which outlives it.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_PDEATHSIG, SIGNAL);
        libc::write(ready.as_raw_fd(), c"1".as_ptr().cast(), 1);
        libc::prctl(libc::PR_SET_NAME, c"comp-will".as_ptr());
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        libc::dup2(file.as_raw_fd(), 0);
        libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0);
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        // Its parent may be dead already; then nothing is told any more.
        while libc::getppid() == parent {
            // The kernel tells of the death in the name of the process of the thread that has died.
            if libc::sigwaitinfo(&raw const all, &raw mut info) == SIGNAL && info.si_pid() == parent {
                break;
            }
        }
        libc::write(0, c"1".as_ptr().cast(), 1);
        libc::_exit(0)
    }
}

pub(crate) fn sched_setattr(tid: i32, attr: &crate::sched::Attr) -> io::Result<()> {
    // SAFETY: `attr` is a `sched_attr` whose `size` field says its size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, tid, attr, 0) }).map(drop)
}

pub(crate) fn sched_getattr(tid: i32) -> io::Result<crate::sched::Attr> {
    let mut attr = crate::sched::Attr::default();
    let size = attr.size;
    // SAFETY: the kernel writes at most the size that it is told.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &mut attr, size, 0) })?;
    Ok(attr)
}

pub(crate) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: integers only; the callers own what they close, or are about to exit.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process without running what it shares with its parent.
    unsafe { libc::_exit(code) }
}

pub(crate) fn pwrite_raw(fd: i32, bytes: &[u8]) {
    // SAFETY: `bytes` is readable for its length; a number that is no open descriptor gives EBADF.
    unsafe { libc::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), 0) };
}

pub(crate) fn set_handler(
    signal: nix::sys::signal::Signal,
    handler: nix::sys::signal::SigHandler,
) -> io::Result<()> {
    // SAFETY: the caller passes only the ignoring or the default handler, which run no code of ours.
    unsafe { nix::sys::signal::signal(signal, handler) }?;
    Ok(())
}

pub(crate) fn epoll_pwait2(
    epoll: BorrowedFd<'_>,
    events: &mut [nix::sys::epoll::EpollEvent],
    timeout: Option<std::time::Duration>,
) -> io::Result<usize> {
    let timeout =
        timeout.map(|t| libc::timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
    let pointer = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `events` is writable for its length (`EpollEvent` is a transparent `epoll_event`), `pointer` is null or points to `timeout`.
    let n = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.as_raw_fd(),
            events.as_mut_ptr(),
            events.len() as i32,
            pointer,
            std::ptr::null::<libc::sigset_t>(),
            0usize,
        )
    };
    match check(n) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
        other => other.map(|n| n as usize),
    }
}

/// An `ioctl` whose argument is a structure of 64-bit words that the kernel reads and may write.
pub(crate) fn ioctl_words(fd: BorrowedFd<'_>, request: u64, words: &mut [u64]) -> io::Result<()> {
    // SAFETY: the request's size field is at most that of `words` (the callers pair them). Addresses inside the words are only read by the
    // kernel and belong to buffers that the caller borrows, or to another address space.
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, words.as_mut_ptr()) }))
        .map(drop)
}

/// As [`ioctl_words`], for `PAGEMAP_SCAN`, which gives a count and writes regions into `out`.
pub(crate) fn pagemap_scan(
    fd: BorrowedFd<'_>,
    arg: &mut [u64; 12],
    out: &mut [[u64; 3]],
) -> io::Result<usize> {
    const PAGEMAP_SCAN: u64 = 0xC060_6610;
    arg[0] = 96;
    arg[5] = out.as_mut_ptr() as u64;
    arg[6] = out.len() as u64;
    // SAFETY: `arg` is a complete `pm_scan_arg`; its vector is `out`, exclusively borrowed, of the length said.
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), PAGEMAP_SCAN as _, arg.as_mut_ptr()) }))
        .map(|n| n as usize)
}

/// Does reads side by side; their results are in them afterwards. At most as many as the ring has entries.
pub(crate) fn ring_read(
    ring: &mut io_uring::IoUring,
    reads: &mut [crate::reads::Read<'_>],
    meanwhile: impl FnOnce(),
) -> io::Result<()> {
    use io_uring::{opcode, types};
    let mut pushed = 0;
    for (i, read) in reads.iter_mut().enumerate() {
        let (buf, len) = (read.buf.as_mut_ptr(), read.buf.len() as u32);
        let entry = opcode::Read::new(types::Fd(read.fd.as_raw_fd()), buf, len).offset(read.offset).build();
        // SAFETY: buffer and descriptor are borrowed by `reads`, and we do not return before every entry that was taken has completed.
        if unsafe { ring.submission().push(&entry.user_data(i as u64)) }.is_err() {
            break;
        }
        pushed += 1;
    }
    for read in &mut reads[pushed..] {
        read.result = Err(io::ErrorKind::WouldBlock.into());
    }
    // What is not taken now is taken below.
    if ring.submit().is_ok() {
        // Nor may we be left by a panic.
        let abort = AbortOnDrop;
        meanwhile();
        std::mem::forget(abort);
    }
    let mut completed = 0;
    while completed < pushed {
        match ring.submit_and_wait(pushed - completed) {
            Ok(_) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
            // Nothing that was taken may still be under way when the buffers are given back.
            Err(e) if completed == 0 && ring.submission().len() == pushed => return Err(e),
            Err(_) => std::process::abort(),
        }
        for done in ring.completion() {
            completed += 1;
            if let Some(read) = reads.get_mut(done.user_data() as usize) {
                read.result = match done.result() {
                    n if n >= 0 && n as usize == read.buf.len() => Ok(()),
                    n if n >= 0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    error => Err(io::Error::from_raw_os_error(-error)),
                };
            }
        }
    }
    Ok(())
}

/// Ends the process where it is dropped.
struct AbortOnDrop;

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        std::process::abort();
    }
}

/// Copies a descriptor of another process.
pub(crate) fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) }).map(own)
}

/// Takes over a descriptor that the kernel has put into our table, such as that of a forked child's userfaultfd.
pub(crate) fn own_given(fd: i32) -> Option<OwnedFd> {
    // SAFETY: F_GETFD reads no memory; the caller asserts that nobody else owns the number.
    (fd >= 0 && unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0).then(|| own(fd.into()))
}

/// Reads straight into mapped words.
pub(crate) fn read_words(fd: BorrowedFd<'_>, words: &[AtomicU64]) -> io::Result<usize> {
    // SAFETY: atomics may be written through a shared reference, here by the kernel; `words` is as long as said.
    let n = unsafe {
        libc::read(fd.as_raw_fd(), words.as_ptr() as *mut libc::c_void, std::mem::size_of_val(words))
    };
    check(n as libc::c_long).map(|n| n as usize)
}

/// `ptrace` requests that have integers, or a word to read or write, as arguments.
pub(crate) fn ptrace_word(request: libc::c_uint, tid: i32, addr: usize, data: usize) -> io::Result<()> {
    // SAFETY: the callers use requests whose arguments are integers.
    check(unsafe { libc::ptrace(request as _, tid, addr, data) }).map(drop)
}

const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;

/// Replaces the signal mask of a stopped tracee; gives the old one.
pub(crate) fn ptrace_swap_mask(tid: i32, mask: u64) -> io::Result<u64> {
    let mut old = 0u64;
    // SAFETY: the kernel writes the 8 bytes that `addr` says.
    check(unsafe { libc::ptrace(PTRACE_GETSIGMASK as _, tid, 8usize, &raw mut old) })?;
    // SAFETY: the kernel reads the 8 bytes that `addr` says.
    check(unsafe { libc::ptrace(PTRACE_SETSIGMASK as _, tid, 8usize, &raw const mask) })?;
    Ok(old)
}

// The agent: what runs in a member's address space beside it, as a process of its own. It does system calls that it is told in shared
// words at r12 (see `agent`), one batch for each byte that it reads from its socket, and sends the byte back. When nobody holds the
// other end any more, it kills the member: its missing pages could not be had again.
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .rodata.compartment_agent, \"a\"",
    ".balign 64",
    ".globl compartment_agent_begin",
    "compartment_agent_begin:",
    "syscall", // clone, in the member
    "test rax, rax",
    "jz 5f",
    "int3",
    // The child: makes a child of its own, tells its number, and ends. So the agent is no child of the member's, and is reaped by init.
    "5:",
    "mov edi, 0x800100", // clone(CLONE_VM | CLONE_UNTRACED)
    "xor esi, esi",
    "xor edx, edx",
    "xor r10d, r10d",
    "xor r8d, r8d",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 2f",
    "mov qword ptr [r12 + 32], rax",
    "xor edi, edi", // exit(0)
    "mov eax, 60",
    "syscall",
    "2:",
    "mov edi, dword ptr [r12 + 8]", // read(socket, &byte, 1)
    "lea rsi, [r12 + 24]",
    "mov edx, 1",
    "xor eax, eax",
    "syscall",
    "cmp rax, -4",
    "je 2b",
    "cmp rax, 1",
    "jne 6f",
    "mov r13, qword ptr [r12]",
    "lea r14, [r12 + 4096]",
    "3:",
    "test r13, r13",
    "jz 4f",
    "mov rax, qword ptr [r14]",
    "mov rdi, qword ptr [r14 + 8]",
    "mov rsi, qword ptr [r14 + 16]",
    "mov rdx, qword ptr [r14 + 24]",
    "mov r10, qword ptr [r14 + 32]",
    "mov r8, qword ptr [r14 + 40]",
    "mov r9, qword ptr [r14 + 48]",
    "syscall",
    "mov qword ptr [r14 + 56], rax",
    "add r14, 64",
    "dec r13",
    "jmp 3b",
    "4:",
    "mov edi, dword ptr [r12 + 8]", // write(socket, &byte, 1)
    "lea rsi, [r12 + 24]",
    "mov edx, 1",
    "mov eax, 1",
    "syscall",
    "jmp 2b",
    "6:",
    "mov edi, dword ptr [r12 + 16]", // kill(member, SIGKILL)
    "mov esi, 9",
    "mov eax, 62",
    "syscall",
    "xor edi, edi", // poll(nothing, 50 ms): what is missing may read as zeros only after the end of the last thread
    "xor esi, esi",
    "mov edx, 50",
    "mov eax, 7",
    "syscall",
    "mov eax, 231", // exit_group(0)
    "xor edi, edi",
    "syscall",
    ".globl compartment_agent_end",
    "compartment_agent_end:",
    ".popsection",
);

/// The agent's machine code.
#[cfg(target_arch = "x86_64")]
pub(crate) fn agent_code() -> &'static [u8] {
    // SAFETY: the symbols are defined by the assembly above and only their addresses are used.
    unsafe extern "C" {
        static compartment_agent_begin: u8;
        static compartment_agent_end: u8;
    }
    let (begin, end) = (&raw const compartment_agent_begin, &raw const compartment_agent_end);
    // SAFETY: both are bounds of one piece of read-only data.
    unsafe { std::slice::from_raw_parts(begin, end.offset_from_unsigned(begin)) }
}

/// Sets the supplementary groups of the calling thread alone (the C library's call would set those of all threads).
pub(crate) fn set_thread_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: `groups` is that many ids, which the kernel only reads.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Opens a userfaultfd by `/dev/userfaultfd`.
pub(crate) fn userfaultfd_from(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: this request takes flags by value and touches no memory.
    check(unsafe { libc::ioctl(device.as_raw_fd(), crate::uffd::IOC_NEW as _, flags) }.into()).map(own)
}

/// Makes a copy of what is mounted at a path that is mounted nowhere yet.
pub(crate) fn open_tree_clone(path: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: `path` is a NUL-terminated string that the kernel only reads.
    check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) }).map(own)
}

/// Mounts such a copy.
pub(crate) fn move_mount(tree: BorrowedFd<'_>, to: &CStr) -> io::Result<()> {
    let (from, none, flags) = (tree.as_raw_fd(), c"".as_ptr(), libc::MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: both paths are NUL-terminated strings that the kernel only reads.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from, none, libc::AT_FDCWD, to.as_ptr(), flags) })
        .map(drop)
}

/// Installs a filter for the calling thread, and what it will start; gives its listener.
pub(crate) fn seccomp_listener(program: &[libc::sock_filter], flags: libc::c_ulong) -> io::Result<OwnedFd> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `program` names that many instructions, which the kernel copies; it changes nothing there.
    check(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) }).map(own)
}

/// Takes the next call from a listener.
pub(crate) fn seccomp_receive(listener: BorrowedFd<'_>) -> io::Result<libc::seccomp_notif> {
    let data = libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] };
    let mut call = libc::seccomp_notif { id: 0, pid: 0, flags: 0, data };
    let (fd, request) = (listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV);
    // SAFETY: the kernel writes one such structure, which has to be zero before.
    let done = unsafe { libc::ioctl(fd, request, &raw mut call) };
    check(done.into()).map(|_| call)
}

/// Answers a call.
pub(crate) fn seccomp_send(listener: BorrowedFd<'_>, mut answer: libc::seccomp_notif_resp) -> io::Result<()> {
    let (fd, request) = (listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND);
    // SAFETY: the kernel reads one such structure.
    let done = unsafe { libc::ioctl(fd, request, &raw mut answer) };
    check(done.into()).map(drop)
}

/// Says whether a call still waits.
pub(crate) fn seccomp_is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    let (fd, request) = (listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID);
    // SAFETY: the kernel reads one 64-bit word.
    unsafe { libc::ioctl(fd, request, &raw const id) == 0 }
}

/// Gives a waiting caller a descriptor, in the place of another one if a number is given; gives its number there.
pub(crate) fn seccomp_add_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    number: Option<i32>,
) -> io::Result<i32> {
    let add = libc::seccomp_notif_addfd {
        id,
        flags: number.map_or(0, |_| libc::SECCOMP_ADDFD_FLAG_SETFD as u32),
        srcfd: fd.as_raw_fd().cast_unsigned(),
        newfd: number.unwrap_or(0).cast_unsigned(),
        newfd_flags: libc::O_CLOEXEC.cast_unsigned(),
    };
    let (fd, request) = (listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD);
    // SAFETY: the kernel reads one such structure.
    let number = unsafe { libc::ioctl(fd, request, &raw const add) };
    check(number.into()).map(|number| number as i32)
}
