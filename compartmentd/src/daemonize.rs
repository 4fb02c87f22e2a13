//! Starting in the background: the same binary again with `--foreground`, and an exit code that tells whether it serves.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// What the daemon writes to standard output when it serves.
pub(crate) const READY: &[u8] = b"ready\n";
const LOG: &str = "daemon.log";

/// Starts the daemon, waits until it serves or has failed, and gives the exit code for us.
///
/// # Errors
/// If it cannot be started.
pub(crate) fn start(args: &[OsString], state: &Path) -> io::Result<ExitCode> {
    let mut log = File::options().create(true).append(true).read(true).mode(0o600).open(state.join(LOG))?;
    let before = log.seek(SeekFrom::End(0))?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("daemon")
        .args(args)
        .args(["--foreground", "--report-ready"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.try_clone()?)
        .spawn()?;
    let mut said = Vec::new();
    if let Some(stdout) = &mut child.stdout {
        stdout.read_to_end(&mut said)?;
    }
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let _ = child.wait();
    let mut words = String::new();
    log.seek(SeekFrom::Start(before))?;
    log.read_to_string(&mut words)?;
    eprint!("{words}");
    Ok(ExitCode::FAILURE)
}

/// Tells the process that has started us, and lets go of it.
///
/// # Errors
/// If it is gone.
pub(crate) fn report_ready() -> io::Result<()> {
    use std::io::Write;
    let _ = nix::unistd::setsid();
    io::stdout().write_all(READY)?;
    io::stdout().flush()?;
    let null = File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(())
}
