//! The guest's serial line: two fifos in a directory, `in` for what the guest reads and `out` for what it writes. Fifos, since either side may come and
//! go without the other one noticing; a terminal would be hung up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::exit::CliError;

/// For the instance: both ends of both fifos, to be left open over `exec`.
#[derive(Debug)]
pub(crate) struct Ends {
    input: OwnedFd,
    output: OwnedFd,
}

impl Ends {
    /// Makes directory and fifos where they are missing, and opens them.
    pub(crate) fn make(dir: &Path) -> Result<Self, CliError> {
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(CliError::os(format!("make {}", dir.display()))(e));
            }
            _ => {}
        }
        let end = |name: &str| {
            let path = dir.join(name);
            let failed = |what: &str| CliError::nix(format!("{what} {}", path.display()));
            match mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
                Err(e) if e != Errno::EEXIST => return Err(failed("make")(e)),
                _ => {}
            }
            let fd = open(&path, OFlag::O_RDWR, Mode::empty()).map_err(failed("open"))?;
            let file = File::from(fd);
            check_fifo(&file, &path)?;
            Ok(OwnedFd::from(file))
        };
        if writer(&dir.join("in")).is_ok() {
            return Err(CliError::Failed(format!("another instance has the line in {}", dir.display())));
        }
        Ok(Self { input: end("in")?, output: end("out")? })
    }

    /// What the instance has to be told.
    pub(crate) fn argument(&self) -> String {
        format!("ssl0=fd:{},fd:{}", self.input.as_raw_fd(), self.output.as_raw_fd())
    }
}

fn check_fifo(file: &File, path: &Path) -> Result<(), CliError> {
    let meta = file.metadata().map_err(CliError::os(format!("look at {}", path.display())))?;
    if meta.file_type().is_fifo() {
        return Ok(());
    }
    Err(CliError::Failed(format!("{} is no fifo", path.display())))
}

/// Fails if nobody reads.
fn writer(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

/// For us: the line to an agent.
#[derive(Debug)]
pub(crate) struct Line {
    input: File,
    output: Flock<File>,
}

impl Line {
    /// Opens the line, which no other one of us may have.
    pub(crate) fn open(dir: &Path) -> Result<Self, CliError> {
        let (to, from) = (dir.join("in"), dir.join("out"));
        let input = match writer(&to) {
            Err(e) if e.raw_os_error() == Some(Errno::ENXIO as i32) => {
                return Err(CliError::Failed(format!("no instance has the line in {}", dir.display())));
            }
            result => result.map_err(CliError::os(format!("open {}", to.display())))?,
        };
        let output = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&from);
        let output = output.map_err(CliError::os(format!("open {}", from.display())))?;
        check_fifo(&input, &to)?;
        check_fifo(&output, &from)?;
        match Flock::lock(output, FlockArg::LockExclusiveNonblock) {
            Ok(output) => Ok(Self { input, output }),
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(CliError::Failed(format!("another `uml attach` has the line in {}", dir.display())))
            }
            Err((_, e)) => Err(CliError::nix(format!("lock {}", from.display()))(e)),
        }
    }

    /// Says whether a process has the guest's end open.
    pub(crate) fn is_of(&self, pid: i32) -> bool {
        let Ok(own) = self.output.metadata() else { return false };
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut files = fds.filter_map(|fd| fs::metadata(fd.path()).ok());
        files.any(|file| (file.dev(), file.ino()) == (own.dev(), own.ino()))
    }

    /// Sends a short line, as a whole or not at all: gives false if the guest does not take more now.
    pub(crate) fn send(&self, line: &str) -> io::Result<bool> {
        match (&self.input).write_all(line.as_bytes()) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Takes what has come; `None` if the guest's end is closed.
    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match (&*self.output).read(buffer) {
            Ok(0) => Ok(None),
            Ok(n) => Ok(Some(&buffer[..n])),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(Some(&[])),
            Err(e) => Err(e),
        }
    }

    /// Where requests go.
    pub(crate) fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// Where answers come from.
    pub(crate) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_one_instance_and_one_reader() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().join("uml");
        assert!(matches!(Line::open(&place), Err(CliError::Os { .. })));

        let ends = Ends::make(&place).expect("a line");
        assert!(Ends::make(&place).is_err(), "there is one instance already");
        let line = Line::open(&place).expect("an instance");
        assert!(Line::open(&place).is_err(), "there is one of us already");
        assert!(line.is_of(std::process::id().cast_signed()) && !line.is_of(1));

        assert!(line.send("list 1\n").expect("room"));
        let mut sent = [0; 16];
        assert_eq!(nix::unistd::read(&ends.input, &mut sent), Ok(7));
        nix::unistd::write(&ends.output, b"end").expect("room");
        let mut buffer = [0; 16];
        assert_eq!(line.receive(&mut buffer).expect("open"), Some(&b"end"[..]));
        assert_eq!(line.receive(&mut buffer).expect("open"), Some(&b""[..]));
        while line.send("list 1\n").expect("open") {}
        drop(ends);
        assert_eq!(line.receive(&mut buffer).expect("closed"), None);
        drop(line);
        assert!(Line::open(&place).is_err(), "the instance has ended");
    }
}
