//! A daemon of our own for the time of one verb: started, waited for, ended, and nothing of it left.
//!
//! The daemon watches its standard input: when we close it, or die, it dissolves its groups and ends.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::exit::CliError;
use crate::multicall::{self, Recovery};
use crate::paths;
use crate::signals::Signals;
use crate::tree::Tree;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A running daemon that ends with this value.
#[derive(Debug)]
pub(crate) struct Embedded {
    daemon: Child,
    place: Place,
    tree: Tree,
}

/// How to start a daemon.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Let its messages through instead of keeping them for the case that it fails.
    pub(crate) is_verbose: bool,
    /// The driver's parts to use: its `--force-mode`.
    pub(crate) force_mode: Option<String>,
}

impl Embedded {
    /// Starts a daemon and waits until its tree is there.
    ///
    /// # Errors
    /// [`CliError::Unreachable`] with what the daemon said; [`CliError::Interrupted`].
    pub(crate) fn start(signals: &Signals, options: &Options) -> Result<Self, CliError> {
        // What a killed verb of this user has left; if it cannot be cleared, that is not this verb's failure.
        for place in paths::embedded_dirs().iter().filter_map(|dir| Place::adopt(dir)) {
            let _ = place.clear();
        }
        let place = Place::make().map_err(CliError::os("make a directory for the daemon"))?;
        let mut daemon = place.spawn(options)?;
        match wait_for_tree(&mut daemon, &place, signals) {
            Ok(tree) => Ok(Self { daemon, place, tree }),
            Err(e) => {
                stop(&mut daemon, &place);
                Err(e)
            }
        }
    }

    /// Gives its tree.
    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }
}

/// Ends it: its groups are dissolved, their members run on.
impl Drop for Embedded {
    fn drop(&mut self) {
        stop(&mut self.daemon, &self.place);
    }
}

fn wait_for_tree(daemon: &mut Child, place: &Place, signals: &Signals) -> Result<Tree, CliError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        // The directory itself first: before the mount it holds nothing, and nothing can block there.
        if let Ok(tree) = Tree::open(place.tree()) {
            return Ok(tree);
        }
        let ended = daemon.try_wait().map_err(CliError::os("wait for the daemon"))?;
        if let Some(status) = ended {
            return Err(CliError::Unreachable(format!(
                "the daemon ended with {status}{}",
                place.last_words()
            )));
        }
        if Instant::now() >= deadline {
            let words = place.last_words();
            return Err(CliError::Unreachable(format!("the daemon's tree did not appear in time{words}")));
        }
        signals.sleep(Duration::from_millis(10))?;
    }
}

fn stop(daemon: &mut Child, place: &Place) {
    let result = if wait_for_end(daemon) {
        place.remove().map_err(CliError::os("remove its directory"))
    } else {
        place.clear().map(drop)
    };
    if let Err(e) = result {
        let dir = place.dir.display();
        eprintln!(
            "compartment: the daemon in {dir} did not end well: {e}; `compartment recover` tries again"
        );
    }
}

/// Asks a daemon to end. Gives whether it did, in time and well; it has ended in any case.
fn wait_for_end(daemon: &mut Child) -> bool {
    drop(daemon.stdin.take());
    let deadline = Instant::now() + STOP_TIMEOUT;
    loop {
        match daemon.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = daemon.kill();
                let _ = daemon.wait();
                return false;
            }
        }
    }
}

/// The directory of one embedded daemon. The verb that it belongs to holds a lock on it.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
    _lock: fs::File,
}

impl Place {
    fn make() -> io::Result<Self> {
        let base = paths::make_embedded_base()?;
        // Kept: it is removed by hand, since nothing may ever delete recursively through a mounted tree.
        let dir = tempfile::Builder::new().prefix("d-").tempdir_in(base)?.keep();
        let lock = fs::File::open(&dir)?;
        lock.try_lock()?;
        let place = Self { dir, _lock: lock };
        fs::create_dir(place.tree())?;
        // The daemon insists on a directory for its user alone, whatever the umask is.
        fs::DirBuilder::new().mode(0o700).create(place.state())?;
        Ok(place)
    }

    /// Takes over the place of a verb that has died; nothing if it lives.
    pub(crate) fn adopt(dir: &Path) -> Option<Self> {
        let lock = fs::File::open(dir).ok()?;
        lock.try_lock().ok()?;
        Some(Self { dir: dir.to_owned(), _lock: lock })
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn spawn(&self, options: &Options) -> Result<Child, CliError> {
        let exe = std::env::current_exe().map_err(CliError::os("find the own binary"))?;
        let mut command = Command::new(exe);
        command.args(["daemon", "--embedded", "--foreground", "--mount"]).arg(self.tree());
        command.arg("--state").arg(self.state());
        if let Some(parts) = &options.force_mode {
            command.arg("--force-mode").arg(parts);
        }
        // A process group of its own: Ctrl-C is for the command in the foreground, we end the daemon after it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        if !options.is_verbose {
            let log = fs::File::create(self.log()).map_err(CliError::os("make the daemon's log"))?;
            command.stderr(log);
        }
        command.spawn().map_err(CliError::os("start the daemon"))
    }

    /// Puts an end to what a daemon that was killed has left: dead groups are resumed; those that run on by themselves are
    /// adopted by another daemon, which dissolves them. Gives what was resumed.
    ///
    /// # Errors
    /// [`CliError`] if something is left.
    pub(crate) fn clear(&self) -> Result<Recovery, CliError> {
        let mut recovery = multicall::recover(&self.state())?;
        if let Recovery::Done(done) = &mut recovery {
            if !done.running.is_empty() && wait_for_end(&mut self.spawn(&Options::default())?) {
                done.running.clear();
            }
            if let Some((dir, why)) = done.failed.first() {
                return Err(CliError::Failed(format!("cannot recover {}: {why}", dir.display())));
            }
            if !done.running.is_empty() {
                return Err(CliError::Failed(format!("groups run on without a daemon{}", self.last_words())));
            }
            self.remove().map_err(CliError::os(format!("remove {}", self.dir.display())))?;
        }
        Ok(recovery)
    }

    /// Removes it with a mount that a dead daemon left.
    ///
    /// # Errors
    /// Those of `umount2`, `rmdir`, `unlink`.
    fn remove(&self) -> io::Result<()> {
        let tree = self.tree();
        if self.is_mounted() {
            detach(&tree)?;
        }
        // Not recursive: if the tree is still mounted, this fails.
        ignore_missing(fs::remove_dir(&tree))?;
        ignore_missing(fs::remove_dir_all(self.state()))?;
        ignore_missing(fs::remove_file(self.log()))?;
        fs::remove_dir(&self.dir)
    }

    /// Whether something is mounted at the tree's place, served or not.
    fn is_mounted(&self) -> bool {
        match (fs::symlink_metadata(self.tree()), fs::symlink_metadata(&self.dir)) {
            (Ok(tree), Ok(dir)) => tree.dev() != dir.dev(),
            (Err(e), _) => e.raw_os_error() == Some(Errno::ENOTCONN as i32),
            _ => false,
        }
    }

    /// The end of the daemon's log, to be put after a message.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(5)..];
        if last.is_empty() { String::new() } else { format!(":\n  {}", last.join("\n  ")) }
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

fn detach(tree: &Path) -> io::Result<()> {
    // Nobody serves it: whoever still waits for an answer waits in vain.
    match umount2(tree, MntFlags::MNT_DETACH | MntFlags::MNT_FORCE) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => {
            let done =
                Command::new("fusermount3").args(["-u", "-z"]).arg(tree).stderr(Stdio::null()).status()?;
            if done.success() { Ok(()) } else { Err(Errno::EPERM.into()) }
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_removed_leaves_nothing() {
        let base = tempfile::tempdir().expect("a directory");
        let dir = base.path().join("d-1");
        fs::create_dir_all(dir.join("tree")).expect("a directory");
        let place = Place::adopt(&dir).expect("nobody's");
        assert!(Place::adopt(&dir).is_none(), "it is ours now");
        fs::create_dir_all(place.state().join("deep")).expect("a directory");
        fs::write(place.log(), "one\n\ntwo\n").expect("a file");

        assert_eq!(place.last_words(), ":\n  one\n  two");
        assert!(!place.is_mounted());
        place.remove().expect("all of it is ours");
        assert!(!base.path().join("d-1").exists());
    }

    #[test]
    fn place_with_something_in_its_tree_is_kept() {
        let base = tempfile::tempdir().expect("a directory");
        let place = Place::adopt(base.path()).expect("nobody's");
        fs::create_dir_all(place.tree().join("sched-groups")).expect("a directory");

        assert!(place.remove().is_err());
        assert!(place.tree().join("sched-groups").exists());
    }
}
