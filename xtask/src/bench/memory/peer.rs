//! The peers: the kernel's memory cgroups with a swap file or with zram.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::programs::{Held, Program};
use crate::bench::peer::{PREFIX, maker_of, mounts};
use crate::step;

/// Where swap files are made: where our own file tier is.
pub(super) const SWAP_DIR: &str = "/var/tmp";
/// Notes which zram devices are ours.
const NOTES: &str = "/run";
const ZRAM_CONTROL: &str = "/sys/class/zram-control";

/// Where memory cgroups can be made.
#[derive(Clone, Debug)]
pub(super) struct MemController {
    parent: PathBuf,
    is_v1: bool,
}

impl MemController {
    /// Finds the controller: a v1 hierarchy, else v2 if its root hands the controller down.
    pub(super) fn find() -> Result<Self> {
        let mounts = mounts()?;
        let is_v1 = |(_, kind, options): &&(PathBuf, String, String)| {
            kind == "cgroup" && options.split(',').any(|o| o == "memory")
        };
        if let Some((at, ..)) = mounts.iter().find(is_v1) {
            return Ok(Self { parent: at.clone(), is_v1: true });
        }
        for (at, ..) in mounts.iter().filter(|(_, kind, _)| kind == "cgroup2") {
            let control = at.join("cgroup.subtree_control");
            let _ = fs::write(&control, "+memory");
            let has = |text: String| text.split_whitespace().any(|c| c == "memory");
            if fs::read_to_string(&control).is_ok_and(has) {
                return Ok(Self { parent: at.clone(), is_v1: false });
            }
        }
        bail!("no memory cgroup can be made here: there is no peer to compare with")
    }

    pub(super) const fn version(&self) -> &'static str {
        if self.is_v1 { "v1" } else { "v2" }
    }

    /// Makes a cgroup with a limit.
    pub(super) fn group(&self, name: &str, limit: u64) -> Result<MemCgroup> {
        let dir = self.parent.join(format!("{PREFIX}{}.{name}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        let cgroup = MemCgroup { parent: self.parent.clone(), dir, is_v1: self.is_v1 };
        cgroup.limit(limit)?;
        Ok(cgroup)
    }
}

/// A memory cgroup; when dropped, its members go back and it is removed.
#[derive(Debug)]
pub(super) struct MemCgroup {
    parent: PathBuf,
    dir: PathBuf,
    is_v1: bool,
}

impl MemCgroup {
    /// Moves a process in. Its pages stay where they are charged.
    pub(super) fn take(&self, pid: u32) -> Result<()> {
        fs::write(self.dir.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("move {pid} into {}", self.dir.display()))
    }

    fn limit_file(&self) -> PathBuf {
        self.dir.join(if self.is_v1 { "memory.limit_in_bytes" } else { "memory.max" })
    }

    /// Sets the limit. Returns when no more is used.
    pub(super) fn limit(&self, bytes: u64) -> Result<()> {
        let file = self.limit_file();
        fs::write(&file, bytes.to_string()).with_context(|| format!("write {}", file.display()))
    }
}

impl Drop for MemCgroup {
    fn drop(&mut self) {
        for _ in 0..200 {
            let members = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
            for pid in members.lines() {
                let _ = fs::write(self.parent.join("cgroup.procs"), pid);
            }
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        eprintln!("cannot remove {}", self.dir.display());
    }
}

/// What a host swaps to, for as long as this lives.
#[derive(Debug)]
pub(super) enum Swap {
    File { _file: SwapFile },
    Zram(Zram),
}

/// A file that the kernel swaps to; swapped off and removed when dropped.
#[derive(Debug)]
pub(super) struct SwapFile(PathBuf);

impl SwapFile {
    pub(super) fn new(bytes: u64) -> Result<Self> {
        let path = Path::new(SWAP_DIR).join(format!("{PREFIX}{}.swap", std::process::id()));
        // From here on whatever was done is undone.
        let swap = Self(path);
        let file = &swap.0;
        tool("fallocate", &["-l".as_ref(), bytes.to_string().as_ref(), file.as_ref()])?;
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        tool("mkswap", &["-q".as_ref(), file.as_ref()])?;
        tool("swapon", &[file.as_ref()])?;
        Ok(swap)
    }
}

impl Drop for SwapFile {
    fn drop(&mut self) {
        swap_off(&self.0);
        let _ = fs::remove_file(&self.0);
    }
}

/// A zram device that the kernel swaps to; swapped off and removed when dropped.
#[derive(Debug)]
pub(super) struct Zram {
    number: u32,
}

impl Zram {
    /// Why there can be none; `None` if there can.
    pub(super) fn lack() -> Option<String> {
        if !Path::new(ZRAM_CONTROL).exists() {
            let _ = Command::new("modprobe").arg("zram").stderr(Stdio::null()).status();
        }
        if !Path::new(ZRAM_CONTROL).exists() {
            return Some("this kernel has no zram, nor a module of it (modprobe zram)".into());
        }
        match Self::new(16 << 20) {
            Ok(_) => None,
            Err(error) => Some(format!("{error:#}")),
        }
    }

    /// A device for so many uncompressed bytes, with lz4.
    pub(super) fn new(bytes: u64) -> Result<Self> {
        let text =
            fs::read_to_string(Path::new(ZRAM_CONTROL).join("hot_add")).context("make a zram device")?;
        let zram = Self { number: text.trim().parse().context("a zram device has a number")? };
        fs::write(zram.note(), "")?;
        let set = |file: &str, value: &str| {
            fs::write(zram.sys(file), value).with_context(|| format!("set {file} of zram to {value}"))
        };
        set("comp_algorithm", "lz4")?;
        set("disksize", &bytes.to_string())?;
        let device = zram.device();
        ensure!(device.exists(), "there is no {}", device.display());
        tool("mkswap", &["-q".as_ref(), device.as_ref()])?;
        tool("swapon", &[device.as_ref()])?;
        Ok(zram)
    }

    fn sys(&self, file: &str) -> PathBuf {
        Path::new("/sys/block").join(format!("zram{}", self.number)).join(file)
    }

    fn device(&self) -> PathBuf {
        PathBuf::from(format!("/dev/zram{}", self.number))
    }

    fn note(&self) -> PathBuf {
        Path::new(NOTES).join(format!("{PREFIX}{}.zram{}", std::process::id(), self.number))
    }

    /// Makes what this device takes up count in a cgroup: the kernel charges it to nobody.
    ///
    /// Lowering the limit instead does not do: of v1 it is not lowered while a member takes what was just reclaimed.
    pub(super) fn charge_to(&self, cgroup: &MemCgroup) -> Result<Held> {
        let stat = self.sys("mm_stat");
        let mut ballast = Held::start(&Program::load(&format!("ballast --stat {}", stat.display()))?)?;
        cgroup.take(ballast.pid())?;
        ballast.go()?;
        ballast.hear()?;
        Ok(ballast)
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        swap_off(&self.device());
        remove_zram(self.number);
        let _ = fs::remove_file(self.note());
    }
}

fn remove_zram(number: u32) {
    let _ = fs::write(format!("/sys/block/zram{number}/reset"), "1");
    if let Err(error) = fs::write(Path::new(ZRAM_CONTROL).join("hot_remove"), number.to_string()) {
        eprintln!("cannot remove zram{number}: {error}");
    }
}

fn tool(program: &str, args: &[&std::ffi::OsStr]) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    step::output(Command::new(program).args(args).env("PATH", path)).map(drop)
}

fn swap_off(what: &Path) {
    let is_used = |swaps: String| swaps.lines().any(|l| l.split(' ').next() == what.to_str());
    if fs::read_to_string("/proc/swaps").is_ok_and(is_used)
        && let Err(error) = tool("swapoff", &[what.as_ref()])
    {
        eprintln!("{error:#}");
    }
}

/// Removes what an earlier bench that was killed has left.
pub(super) fn clean_up() {
    let is_orphan =
        |path: &Path| maker_of(path).is_some_and(|maker| !Path::new("/proc").join(maker).exists());
    let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    for path in list(Path::new(SWAP_DIR)).filter(|path| is_orphan(path)) {
        drop(SwapFile(path));
    }
    for note in list(Path::new(NOTES)).filter(|path| is_orphan(path)) {
        let name = note.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(number) = name.rsplit_once(".zram").and_then(|(_, n)| n.parse().ok()) {
            swap_off(Path::new(&format!("/dev/zram{number}")));
            remove_zram(number);
            let _ = fs::remove_file(note);
        }
    }
    let Ok(controller) = MemController::find() else { return };
    for dir in list(&controller.parent).filter(|path| is_orphan(path)) {
        drop(MemCgroup { parent: controller.parent.clone(), dir, is_v1: controller.is_v1 });
    }
}
