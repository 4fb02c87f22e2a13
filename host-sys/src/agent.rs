//! The agent: a process that shares another's address space and does system calls in it on request.
//!
//! It is needed for what a task may only do to its own address space: `UFFDIO_MOVE` and `madvise`. It is told what to do in memory that
//! it shares with us, and woken by a byte on a socket. When the last holder of our end is gone, it kills its member.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::{SharedWords, sys};

/// The size of the memory shared with an agent: a page of code, then one of state, two of calls, two for arguments, and a stack.
pub const MEMORY_BYTES: u64 = 8 * 4096;
/// Where the state is in it.
pub const STATE_AT: u64 = 4096;
/// Most calls of one batch.
pub const CALLS_MAX: usize = 128;
/// Words of one argument.
pub const ARGUMENT_WORDS: usize = 5;

const STATE: usize = 512;
const SOCKET: usize = STATE + 1;
const MEMBER: usize = STATE + 2;
const BYTE: usize = STATE + 3;
const PID: usize = STATE + 4;
const CALLS: usize = STATE + 512;
const ARGUMENTS: usize = STATE + 3 * 512;
/// How long a batch may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One system call of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// `SYS_*`.
    pub number: i64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// Our end of an agent.
#[derive(Debug)]
pub struct Agent {
    words: SharedWords,
    socket: UnixStream,
    /// Where the member's address space has [`STATE_AT`].
    state: u64,
    sequence: u8,
}

impl Agent {
    /// Makes the memory that is to be shared with an agent, its code in place.
    ///
    /// # Errors
    /// Those of `memfd_create` and `mmap`.
    #[cfg(target_arch = "x86_64")]
    pub fn memory() -> io::Result<OwnedFd> {
        let fd = SharedWords::memory_file("compartment-agent", MEMORY_BYTES as usize / 8)?;
        let file = std::fs::File::from(fd);
        std::os::unix::fs::FileExt::write_all_at(&file, sys::agent_code(), 0)?;
        Ok(file.into())
    }

    /// Tells the agent, which is about to start, its descriptor of the socket and whom it must kill when we are gone.
    ///
    /// # Errors
    /// Those of `mmap`.
    pub fn new(memory: BorrowedFd<'_>, socket: OwnedFd, state: u64) -> io::Result<Self> {
        let words = SharedWords::map_fd(memory, MEMORY_BYTES as usize / 8)?;
        let socket = UnixStream::from(socket);
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { words, socket, state, sequence: 0 })
    }

    /// Sets what the agent needs before it starts: the number of its socket. It kills nobody yet.
    pub fn prepare(&self, socket: i32) {
        self.word(SOCKET).store(socket as u64, Ordering::Release);
        self.word(MEMBER).store(i32::MAX as u64, Ordering::Release);
    }

    /// From now on the agent kills this process, by its number in the agent's PID namespace, when nobody holds our end any more.
    pub fn guard(&self, member: i32) {
        self.word(MEMBER).store(member as u64, Ordering::Release);
    }

    /// Gives the agent's PID in the member's PID namespace, as soon as it has started; negative if it could not.
    pub fn pid(&self) -> i32 {
        self.word(PID).load(Ordering::Acquire) as i32
    }

    /// Gives the address, in the member's address space, of the argument at `index`.
    pub fn argument_address(&self, index: usize) -> u64 {
        self.state + (ARGUMENTS - STATE + index * ARGUMENT_WORDS) as u64 * 8
    }

    /// Writes an argument.
    pub fn set_argument(&self, index: usize, words: [u64; ARGUMENT_WORDS]) {
        for (i, word) in words.into_iter().enumerate() {
            self.word(ARGUMENTS + index * ARGUMENT_WORDS + i).store(word, Ordering::Relaxed);
        }
    }

    /// Reads the last word of an argument, where some calls leave a result.
    pub fn argument_result(&self, index: usize) -> i64 {
        self.word(ARGUMENTS + (index + 1) * ARGUMENT_WORDS - 1).load(Ordering::Relaxed).cast_signed()
    }

    /// Has a batch done, without waiting for its end.
    ///
    /// # Errors
    /// `EPIPE` if the agent is gone; `InvalidInput` for too many calls.
    pub fn start(&mut self, calls: &[Call]) -> io::Result<()> {
        if calls.len() > CALLS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (i, call) in calls.iter().enumerate() {
            let at = CALLS + i * 8;
            self.word(at).store(call.number.cast_unsigned(), Ordering::Relaxed);
            for (j, arg) in call.args.into_iter().enumerate() {
                self.word(at + 1 + j).store(arg, Ordering::Relaxed);
            }
        }
        self.word(STATE).store(calls.len() as u64, Ordering::Release);
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.write_all(&[self.sequence])
    }

    /// Waits for the end of the batch that was started last.
    ///
    /// # Errors
    /// `EPIPE` if the agent is gone, `EAGAIN` if it takes too long.
    pub fn finish(&mut self) -> io::Result<()> {
        let mut byte = [0];
        loop {
            match self.socket.read(&mut byte) {
                Ok(0) => return Err(io::Error::from_raw_os_error(libc::EPIPE)),
                // Anything else is an answer to an earlier worker's question.
                Ok(_) if byte[0] == self.sequence => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Has a batch done and waits for its end.
    ///
    /// # Errors
    /// As [`Agent::start`] and [`Agent::finish`].
    pub fn call(&mut self, calls: &[Call]) -> io::Result<()> {
        self.start(calls)?;
        self.finish()
    }

    /// Gives what a call of the last batch has returned.
    pub fn returned(&self, index: usize) -> i64 {
        self.word(CALLS + index * 8 + 7).load(Ordering::Acquire).cast_signed()
    }

    /// Makes sure that the batches of an earlier worker are done, whose numbers ours could be taken for.
    ///
    /// # Errors
    /// As [`Agent::call`].
    pub fn resync(&mut self) -> io::Result<()> {
        self.sequence = self.word(BYTE).load(Ordering::Acquire) as u8;
        self.sequence = self.sequence.wrapping_add(64);
        self.call(&[])
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.words.words()[index]
    }
}

impl AsFd for Agent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
