//! Our side: a daemon of its own for the bench, used through its control tree as a user would.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::step;

const PATIENCE: Duration = Duration::from_secs(20);
/// A move that takes longer hangs.
const MOVE: Duration = Duration::from_secs(60);

/// A running daemon; ended with its groups when dropped.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    dir: TempDir,
    program: PathBuf,
}

impl Daemon {
    /// Starts one. It ends by itself if we die.
    pub(super) fn start(program: &Path) -> Result<Self> {
        let dir =
            tempfile::Builder::new().prefix("compartment-bench-").tempdir().context("make a directory")?;
        let (tree, state) = (dir.path().join("tree"), dir.path().join("state"));
        fs::create_dir(&tree)?;
        fs::DirBuilder::new().mode(0o700).create(&state)?;
        let log = fs::File::create(dir.path().join("log"))?;
        let mut command = Command::new(program);
        command
            .args(["daemon", "--embedded", "--foreground", "--mount"])
            .arg(&tree)
            .arg("--state")
            .arg(&state)
            .arg("--socket")
            .arg(guest_task::socket_beside(&tree));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let mut daemon = Self { child, dir, program: program.to_owned() };
        let deadline = Instant::now() + PATIENCE;
        while !daemon.tree().join("version").exists() {
            if let Some(status) = daemon.child.try_wait()? {
                let log = fs::read_to_string(daemon.dir.path().join("log")).unwrap_or_default();
                bail!("the daemon ended with {status}: {}", log.trim());
            }
            if Instant::now() > deadline {
                bail!("the daemon's tree does not appear");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// `compartment …` for this daemon.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("COMPARTMENTS_MOUNT", self.tree()).stdin(Stdio::null());
        command
    }

    /// Makes a group: `compartment create NAME OPTIONS`.
    pub(super) fn group(&self, name: &str, options: &[&str]) -> Result<Group<'_>> {
        let mut args = vec!["create", name];
        args.extend(options);
        step::output(&mut self.command(&args))?;
        Ok(Group { daemon: self, name: name.to_owned(), half: self.tree().join("sched-groups") })
    }

    /// Makes a mem_group.
    pub(super) fn pool(&self, name: &str, max: u64, tiers: &str) -> Result<Group<'_>> {
        let max = max.to_string();
        step::output(&mut self.command(&["create", name, "--memory", &max, "--swap-tiers", tiers]))?;
        Ok(Group { daemon: self, name: name.to_owned(), half: self.tree().join("mem-groups") })
    }

    /// All processes that this daemon brought along: itself, keepers, workers.
    pub(super) fn processes(&self) -> Vec<u32> {
        let Ok(own) = fs::canonicalize(&self.program) else { return Vec::new() };
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == own))
            .collect()
    }

    /// The last refusals, for messages.
    fn error_log(&self) -> String {
        let log = fs::read_to_string(self.tree().join("error_log")).unwrap_or_default();
        log.lines().last().unwrap_or("error_log is empty").to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("the daemon does not end; it is killed, run `compartment recover`");
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Command::new("umount").arg("-l").arg(self.tree()).status();
    }
}

/// A group, removed when dropped; its members run on.
#[derive(Debug)]
pub(super) struct Group<'a> {
    daemon: &'a Daemon,
    name: String,
    /// Its half of the tree.
    half: PathBuf,
}

impl Group<'_> {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// `mv 0/PID GROUP/`: what `mv` does is one `rename`.
    pub(super) fn take(&self, pid: u32) -> Result<()> {
        self.carry("0", &self.name, pid)
    }

    /// `mv GROUP/PID 0/`.
    pub(super) fn release(&self, pid: u32) -> Result<()> {
        self.carry(&self.name, "0", pid)
    }

    fn carry(&self, from: &str, to: &str, pid: u32) -> Result<()> {
        let pid = pid.to_string();
        let (old, new) = (self.half.join(from).join(&pid), self.half.join(to).join(&pid));
        // Aside: a move that never ends must not be our end too.
        let (tell, told) = channel();
        std::thread::spawn(move || tell.send(fs::rename(old, new)));
        let moved = told.recv_timeout(MOVE).unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        moved.with_context(|| format!("move {pid} from {from} to {to}: {}", self.daemon.error_log()))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.half.join(&self.name).join(name)
    }

    /// `echo VALUE > GROUP/FILE`.
    pub(super) fn write(&self, file: &str, value: &str) -> Result<()> {
        fs::write(self.file(file), format!("{value}\n")).with_context(|| {
            format!("write {value:?} into {}/{file}: {}", self.name, self.daemon.error_log())
        })
    }

    /// `cat GROUP/FILE`.
    pub(super) fn read(&self, file: &str) -> Result<String> {
        let text =
            fs::read_to_string(self.file(file)).with_context(|| format!("read {}/{file}", self.name))?;
        Ok(text.trim_end().to_owned())
    }

    /// A number in a file of `key value` lines.
    pub(super) fn key(&self, file: &str, key: &str) -> Result<u64> {
        let text = self.read(file)?;
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' '));
        let number = line.with_context(|| format!("{file} of {} has no {key}", self.name))?;
        number.parse().with_context(|| format!("{key} of {file} is no number"))
    }

    /// The worker's process.
    pub(super) fn worker(&self) -> Result<u32> {
        let text = self.read("representative")?;
        text.parse().with_context(|| format!("representative {text:?} is no PID"))
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if let Err(error) = step::output(&mut self.daemon.command(&["rm", "--force", &self.name])) {
            eprintln!("group {} cannot be removed: {error:#}", self.name);
        }
    }
}
