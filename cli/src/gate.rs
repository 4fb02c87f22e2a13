//! Starting a program held at a gate: it exists and can be moved into a group, but has not run an instruction of its own.
//!
//! The gate is this binary with the hidden first argument `exec-gate`: it waits for one byte in a pipe that it
//! inherits, then becomes the program. If whoever holds the other end dies, the program never starts.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getppid, pipe2};

use crate::exit::CliError;

/// The hidden first argument.
pub(crate) const WORD: &str = "exec-gate";

/// `sh`'s words for a program that cannot be executed, and for one that is not there.
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// The gate was never opened.
const ABANDONED: u8 = 125;

/// How to start a program.
#[derive(Debug, Default)]
pub(crate) struct Launch {
    argv: Vec<OsString>,
    cpu: Option<usize>,
    dies_with_us: bool,
    stdout: Option<Stdio>,
}

impl Launch {
    /// A program (looked up in `PATH`) and its arguments, in our process group and with our descriptors 0 to 2.
    pub(crate) fn new(argv: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Lets it run on that CPU only.
    pub(crate) fn on_cpu(self, cpu: usize) -> Self {
        Self { cpu: Some(cpu), ..self }
    }

    /// Kills it when we die, and keeps it out of the terminal's foreground like a shell's background job.
    pub(crate) fn in_background(self) -> Self {
        Self { dies_with_us: true, ..self }
    }

    /// Sends its output elsewhere.
    pub(crate) fn stdout(self, stdout: Stdio) -> Self {
        Self { stdout: Some(stdout), ..self }
    }

    /// Starts it, held at the gate.
    ///
    /// # Errors
    /// [`CliError::Os`].
    pub(crate) fn hold(self) -> Result<Held, CliError> {
        let (inner, outer) = pipe2(OFlag::O_CLOEXEC).map_err(CliError::nix("make a pipe"))?;
        // Only this end goes to the child; nothing else is started before it is closed again.
        fcntl(&inner, FcntlArg::F_SETFD(FdFlag::empty())).map_err(CliError::nix("pass a pipe on"))?;
        let exe = std::env::current_exe().map_err(CliError::os("find the own binary"))?;
        let mut command = Command::new(exe);
        command.arg(WORD).arg(inner.as_raw_fd().to_string());
        command.arg(self.cpu.map_or_else(|| "-".to_owned(), |cpu| cpu.to_string()));
        command.arg(if self.dies_with_us { std::process::id().to_string() } else { "-".to_owned() });
        command.args(&self.argv);
        if self.dies_with_us {
            command.process_group(0).stdin(Stdio::null());
        }
        if let Some(stdout) = self.stdout {
            command.stdout(stdout);
        }
        let child = command.spawn().map_err(CliError::os("start the gate"))?;
        drop(inner);
        Ok(Held { child: Some(child), gate: Some(outer.into()) })
    }
}

/// A program at the gate. When dropped, it ends without having started.
#[derive(Debug)]
pub(crate) struct Held {
    child: Option<Child>,
    gate: Option<File>,
}

impl Held {
    /// Gives the process, which stays the same when the program starts.
    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.id().cast_signed())
    }

    /// Lets the program start.
    ///
    /// # Errors
    /// [`CliError::Os`] if it has ended meanwhile.
    pub(crate) fn open(mut self) -> Result<Child, CliError> {
        if let Some(mut gate) = self.gate.take() {
            gate.write_all(b"g").map_err(CliError::os("open the gate"))?;
        }
        self.child.take().ok_or_else(|| CliError::Failed("the gate was opened already".into()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.gate.take());
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

/// The program `exec-gate FD CPU|- PARENT|- CMD…`: the other end of [`Launch::hold`].
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let [fd, cpu, parent, program, rest @ ..] = args else { return ExitCode::from(ABANDONED) };
    match wait_and_exec(fd, cpu, parent, program, rest) {
        Ok(None) => ExitCode::from(ABANDONED),
        Ok(Some(e)) => cannot_run(program, &e),
        Err(e) => {
            eprintln!("compartment: cannot prepare {}: {}", program.display(), crate::exit::describe(&e));
            ExitCode::from(ABANDONED)
        }
    }
}

/// Becomes a program; gives `sh`'s word for it if that does not work.
pub(crate) fn become_program(program: &OsStr, args: &[OsString]) -> ExitCode {
    cannot_run(program, &Command::new(program).args(args).exec())
}

fn cannot_run(program: &OsStr, error: &io::Error) -> ExitCode {
    eprintln!("compartment: cannot run {}: {}", program.display(), crate::exit::describe(error));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE })
}

/// Gives why the program could not be executed; `None` if the gate was never opened.
fn wait_and_exec(
    fd: &OsStr,
    cpu: &OsStr,
    parent: &OsStr,
    program: &OsStr,
    args: &[OsString],
) -> io::Result<Option<io::Error>> {
    let number = |text: &OsStr| text.to_str().and_then(|t| t.parse::<i32>().ok());
    SigSet::empty().thread_set_mask()?;
    if let Some(parent) = number(parent) {
        set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != Pid::from_raw(parent) {
            return Ok(None);
        }
    }
    if let Some(cpu) = cpu.to_str().and_then(|t| t.parse().ok()) {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &set)?;
    }
    let fd = number(fd).ok_or(io::ErrorKind::InvalidInput)?;
    // Opened anew by its name, so that no raw descriptor has to be trusted; the program must not inherit the old one.
    let mut gate = File::open(format!("/proc/self/fd/{fd}"))?;
    nix::unistd::close(fd)?;
    let mut byte = [0u8];
    if gate.read(&mut byte)? == 0 {
        return Ok(None);
    }
    drop(gate);
    Ok(Some(Command::new(program).args(args).exec()))
}
