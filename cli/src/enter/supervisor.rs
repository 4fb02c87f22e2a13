//! The process beside an entered shell: see the module above.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use host_sys::SeqPacket;
use host_sys::seccomp::Listener;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_name;
use nix::unistd::setsid;

use super::calls::{self, Server};
use super::place::Namespaces;
use crate::exit::{CliError, Exit};

/// The hidden first argument.
pub(crate) const WORD: &str = "enter-supervisor";

/// What `ps` shows, whatever the binary is called.
const NAME: &str = "compartment";

/// How often to look for another daemon while there is none.
const LOOK: Duration = Duration::from_millis(200);

const READY: &[u8] = b"ready";
/// What comes with a descriptor, in this order.
const LISTENER: u8 = b'l';
const MOUNTS: u8 = b'm';
const USER: u8 = b'u';
const GO: u8 = b'g';

/// A supervisor that waits for its shell.
#[derive(Debug)]
pub(crate) struct Supervisor(SeqPacket);

impl Supervisor {
    /// Starts one, which is nobody's child.
    ///
    /// # Errors
    /// [`CliError::Os`].
    pub(crate) fn start(root: &Path) -> Result<Self, CliError> {
        let fail = || CliError::os("start the supervisor");
        let (ours, theirs) = SeqPacket::pair().map_err(fail())?;
        let stdin = theirs.as_fd().try_clone_to_owned().map_err(fail())?;
        let status = Command::new("/proc/self/exe")
            .arg0(NAME)
            .args([WORD, "start"])
            .arg(root)
            .stdin(stdin)
            .stdout(Stdio::null())
            .status()
            .map_err(fail())?;
        if !status.success() {
            return Err(CliError::Failed("cannot start the supervisor".into()));
        }
        Ok(Self(ours))
    }

    /// Installs the filter for us and what we will start, and hands all over. From here on the supervisor is needed by whoever has the filter.
    ///
    /// # Errors
    /// [`CliError::Os`].
    pub(crate) fn hand_over(self, namespaces: &Namespaces) -> Result<(), CliError> {
        let listener =
            Listener::install(&calls::rules()).map_err(CliError::os("install a filter for system calls"))?;
        let hand = || -> io::Result<()> {
            self.0.send(&[LISTENER], Some(listener.as_fd()))?;
            self.0.send(&[MOUNTS], Some(namespaces.mounts.as_fd()))?;
            if let Some(user) = &namespaces.user {
                self.0.send(&[USER], Some(user.as_fd()))?;
            }
            self.0.send(&[GO], None)?;
            let mut said = [0; READY.len()];
            match self.0.recv(&mut said)? {
                (len, _) if said[..len] == *READY => Ok(()),
                _ => Err(io::ErrorKind::ConnectionReset.into()),
            }
        };
        hand().map_err(CliError::os("reach the supervisor"))
    }
}

/// The programs `enter-supervisor start TREE`, which starts the other one and ends, and `enter-supervisor serve TREE`.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let [what, root] = args else { return Exit::Usage.into() };
    let done = match what.to_str() {
        Some("start") => Command::new("/proc/self/exe")
            .arg0(NAME)
            .args([WORD, "serve"])
            .arg(root)
            .stderr(Stdio::null())
            .spawn()
            .map(drop),
        Some("serve") => serve(Path::new(root)),
        _ => return Exit::Usage.into(),
    };
    match done {
        Ok(()) => Exit::Ok.into(),
        Err(e) => {
            eprintln!("compartment: the supervisor ends: {e}");
            Exit::Failed.into()
        }
    }
}

fn serve(root: &Path) -> io::Result<()> {
    let _ = setsid();
    let _ = set_name(&CString::new(NAME)?);
    std::env::set_current_dir("/")?;
    let socket = SeqPacket::from_fd(io::stdin().as_fd().try_clone_to_owned()?);
    let Some((listener, namespaces)) = receive(&socket)? else { return Ok(()) };
    socket.send(READY, None)?;
    drop(socket);
    let server = Server::new(listener, root.to_owned());
    thread::Builder::new().name("calls".into()).spawn(move || {
        let code = if server.run().is_ok() { Exit::Ok } else { Exit::Failed };
        // The other thread has nothing to put in order.
        std::process::exit(code as i32)
    })?;
    watch(root, &namespaces)
}

/// Gives what the shell hands over; nothing if it has ended before.
fn receive(socket: &SeqPacket) -> io::Result<Option<(Listener, Namespaces)>> {
    let (mut listener, mut mounts, mut user) = (None, None, None);
    let mut word = [0];
    loop {
        let (len, fd) = socket.recv(&mut word)?;
        let file = |fd: Option<OwnedFd>| fd.map(File::from);
        match (len, word[0]) {
            (0, _) => return Ok(None),
            (_, LISTENER) => listener = fd.map(Listener::from_fd),
            (_, MOUNTS) => mounts = file(fd),
            (_, USER) => user = file(fd),
            _ => break,
        }
    }
    Ok(listener.zip(mounts).map(|(listener, mounts)| (listener, Namespaces { mounts, user })))
}

/// Renews the mounts whenever the daemon has ended, and when there is another one.
fn watch(root: &Path, namespaces: &Namespaces) -> io::Result<()> {
    let version: PathBuf = root.join("version");
    let mut is_mounted = true;
    loop {
        match File::open(&version) {
            Ok(served) => {
                if !is_mounted {
                    namespaces.refresh(root)?;
                    is_mounted = true;
                }
                // Nothing is asked for but the end of the connection.
                let _ = poll(&mut [PollFd::new(served.as_fd(), PollFlags::empty())], PollTimeout::NONE);
            }
            Err(_) if is_mounted => {
                namespaces.refresh(root)?;
                is_mounted = false;
            }
            Err(_) => thread::sleep(LOOK),
        }
    }
}
