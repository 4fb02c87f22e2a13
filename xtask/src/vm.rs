//! `cargo xtask vm-test`: the session on a host that has cgroup v2 only.
//!
//! A Debian kernel and an initramfs with busybox and our binary boot under QEMU, which emulates the CPU unless told otherwise.
//! The guest prints JSON between marks on its serial line, and powers off.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::setup::{SetupArgs, run_setup};
use crate::step::{output, run, run_seen};

/// Boot a pure cgroup v2 host and run the session there.
#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    /// The binary to take along instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// How long to measure, in the guest's time
    #[arg(long, value_name = "N", default_value_t = 20)]
    seconds: u32,
    /// The group's time slice in microseconds; kernels before 6.6 favour short ones, see docs/vm-test.md
    #[arg(long, value_name = "USEC", default_value_t = 100_000)]
    slice: u32,
    /// How far a share may be off, in points: an emulated CPU keeps bad time
    #[arg(long, value_name = "POINTS", default_value_t = 2.0)]
    tolerance: f64,
    /// How many CPUs the guest has
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// A shell command that the guest runs before the demo, to try a setting of its kernel
    #[arg(long, value_name = "COMMAND", default_value = ":")]
    before: String,
    /// How QEMU runs the guest's code: tcg works everywhere, kvm is faster
    #[arg(long, default_value = "tcg")]
    accel: String,
}

const BUILD_LIMIT: Duration = Duration::from_secs(1_800);
const BOOT_LIMIT: Duration = Duration::from_secs(1_200);
const FETCH_LIMIT: Duration = Duration::from_secs(600);

/// What stands before each result on the serial line, and after the last.
const MARK: &str = "=====";

/// The first program of the guest. Words in `@` are filled in.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /etc
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tracefs nodev /sys/kernel/tracing
for module in /modules/*.ko; do insmod $module; done
[ -e /dev/fuse ] || mknod /dev/fuse c 10 229
echo /bin/busybox > /proc/sys/kernel/modprobe
dmesg -n 1
echo "===== kernel"; uname -r
echo "===== hierarchies"; grep -c . /proc/self/cgroup; grep cgroup /proc/mounts
echo "===== doctor"; compartment doctor --json
echo "===== before"; @BEFORE@
echo "===== demo"; compartment demo --seconds @SECONDS@ --slice @SLICE@ --json
echo "===== run"; compartment run --cpu 0.5 -- sh -c 'echo ran in a group; exit 7'; echo "status $?"
echo "===== left"; ps | grep -c '[k]eeper'; find /sys/fs/cgroup -name 'compartment.*' | wc -l
echo "===== end"
poweroff -f
"#;

/// Boots and judges.
///
/// # Errors
/// If the guest does not come up, or the session fails in it.
pub(crate) fn main(args: &VmArgs) -> Result<()> {
    run_setup(&SetupArgs { vm: true, dry_run: false })?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => build()?,
    };
    let dir = target_dir()?.join("vm-test");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let kernel = Kernel::fetch(&dir)?;
    let initramfs = pack(&dir, &kernel, &program, args)?;
    let text = boot(&kernel, &initramfs, args)?;
    fs::write(dir.join("serial.log"), &text)?;
    judge(&text, args.tolerance)
}

fn target_dir() -> Result<PathBuf> {
    let mut metadata = cargo_metadata::MetadataCommand::new();
    metadata.cargo_path(crate::cargo()).manifest_path(crate::root().join("Cargo.toml")).no_deps();
    Ok(metadata.exec().context("find the target directory")?.target_directory.into())
}

fn build() -> Result<PathBuf> {
    let mut command = Command::new(crate::cargo());
    command.args(["build", "--release", "--locked", "-p", "compartment"]).current_dir(crate::root());
    run(&mut command, BUILD_LIMIT)?;
    Ok(target_dir()?.join("release/compartment"))
}

/// A Debian kernel, unpacked.
struct Kernel {
    image: PathBuf,
    modules: Vec<PathBuf>,
}

impl Kernel {
    fn fetch(dir: &Path) -> Result<Self> {
        let root = dir.join("kernel");
        if !root.join("boot").is_dir() {
            // The package itself only names the one with the kernel of the day.
            let depends =
                output(Command::new("apt-cache").args(["depends", "--important", "linux-image-amd64"]))?;
            let package = depends
                .lines()
                .find_map(|l| l.trim().strip_prefix("Depends: "))
                .context("no kernel package")?;
            run(Command::new("apt-get").args(["download", "-q", package]).current_dir(dir), FETCH_LIMIT)?;
            let deb = find(dir, &|name| name.starts_with("linux-image") && name.ends_with(".deb"))?;
            run(Command::new("dpkg").arg("-x").arg(&deb).arg(&root), FETCH_LIMIT)?;
        }
        let image = find(&root.join("boot"), &|name| name.starts_with("vmlinuz-"))?;
        let fuse = find(&root, &|name| name == "fuse.ko" || name == "fuse.ko.xz");
        Ok(Self { image, modules: fuse.into_iter().collect() })
    }
}

/// Finds a file below a directory by its name.
fn find(dir: &Path, is_it: &dyn Fn(&str) -> bool) -> Result<PathBuf> {
    fn search(dir: &Path, is_it: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
        let mut dirs = Vec::new();
        for entry in fs::read_dir(dir).ok()?.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                dirs.push(entry.path());
            } else if entry.file_name().to_str().is_some_and(is_it) {
                return Some(entry.path());
            }
        }
        dirs.into_iter().find_map(|dir| search(&dir, is_it))
    }
    search(dir, is_it).with_context(|| format!("what is looked for is not below {}", dir.display()))
}

/// Makes the initramfs.
fn pack(dir: &Path, kernel: &Kernel, program: &Path, args: &VmArgs) -> Result<PathBuf> {
    let root = dir.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).context("clear the image's directory")?;
    }
    for sub in ["bin", "modules", "dev", "proc", "sys"] {
        fs::create_dir_all(root.join(sub))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|p| Path::new(p).exists())
        .context("no busybox")?;
    install(Path::new(busybox), &root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/sh"))?;
    install(program, &root.join("bin/compartment"))?;
    for lib in libraries(program)? {
        install(&lib, &root.join(lib.strip_prefix("/").unwrap_or(&lib)))?;
    }
    for module in &kernel.modules {
        let to = root.join("modules/fuse.ko");
        install(module, &to)?;
        if module.extension().is_some_and(|e| e == "xz") {
            fs::rename(&to, root.join("modules/fuse.ko.xz"))?;
            run(Command::new("xz").arg("-d").arg(root.join("modules/fuse.ko.xz")), FETCH_LIMIT)?;
        }
    }
    let init = root.join("init");
    let script = INIT
        .replace("@SECONDS@", &args.seconds.to_string())
        .replace("@SLICE@", &args.slice.to_string())
        .replace("@BEFORE@", &args.before);
    fs::write(&init, script)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let image = dir.join("initramfs");
    let script = "find . -print0 | cpio --null --create --format=newc --quiet | gzip -1 > \"$0\"";
    run(Command::new("sh").args(["-c", script]).arg(&image).current_dir(&root), FETCH_LIMIT)?;
    Ok(image)
}

fn install(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}

/// The shared libraries of a program, its loader included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = output(Command::new("ldd").arg(program))?;
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// Boots; gives what the guest wrote on its serial line.
fn boot(kernel: &Kernel, initramfs: &Path, args: &VmArgs) -> Result<String> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", &args.accel, "-cpu", "max", "-m", "1024", "-smp", &args.cpus.to_string()]);
    command.args(["-nographic", "-no-reboot", "-nic", "none", "-kernel"]).arg(&kernel.image);
    command.arg("-initrd").arg(initramfs);
    command.args(["-append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all"]);
    let text = Mutex::new(String::new());
    run_seen(&mut command, BOOT_LIMIT, |line| {
        if let Ok(mut text) = text.lock() {
            *text += line.trim_end_matches('\r');
            text.push('\n');
        }
    })?;
    text.into_inner().map_err(|_| anyhow::anyhow!("the reader of the serial line panicked"))
}

/// The part of the guest's output after a mark.
fn part<'a>(text: &'a str, name: &str) -> Result<&'a str> {
    let (_, rest) = text
        .split_once(&format!("{MARK} {name}\n"))
        .with_context(|| format!("the guest did not get to `{name}`"))?;
    Ok(rest.split(MARK).next().unwrap_or_default().trim())
}

fn json(text: &str) -> Result<Value> {
    let (start, end) = (text.find('{').context("no JSON")?, text.rfind('}').context("no JSON")?);
    serde_json::from_str(&text[start..=end]).context("parse the guest's JSON")
}

fn judge(text: &str, tolerance: f64) -> Result<()> {
    part(text, "end")?;
    println!("\nkernel       {}", part(text, "kernel")?);
    ensure!(!part(text, "hierarchies")?.contains(" cgroup "), "the guest has a v1 hierarchy");
    let doctor = json(part(text, "doctor")?)?;
    println!("doctor       usable {}, mode {}", doctor["usable"], doctor["mode"]);
    let demo =
        json(part(text, "demo")?).with_context(|| part(text, "demo").unwrap_or_default().to_owned())?;
    println!("mode         {}", demo["mode"].as_str().unwrap_or_default());
    let mut is_good = true;
    for share in demo["shares"].as_array().context("no shares")? {
        let (asked, got) = (share["asked"].as_f64().unwrap_or(0.0), share["got"].as_f64().unwrap_or(0.0));
        println!("{:<12} asked {asked:.1}, got {got:.2}", share["name"].as_str().unwrap_or_default());
        is_good &= (asked - got).abs() <= tolerance;
    }
    println!("of the CPU   {}", demo["cpu_used_pct"]);
    println!("run          {}", part(text, "run")?.replace('\n', ", "));
    println!("left over    {} keepers and cgroups", part(text, "left")?.replace('\n', " and "));
    ensure!(part(text, "run")?.contains("status 7"), "`run` does not pass its command's status on");
    ensure!(part(text, "left")?.split_whitespace().all(|n| n == "0"), "something is left over in the guest");
    if !is_good {
        bail!("a share is more than {tolerance} points off");
    }
    println!("PASS: each share is within {tolerance} points");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "===== kernel\n6.1.0\n===== hierarchies\n1\ncgroup /sys/fs/cgroup cgroup2 rw 0 0\n===== doctor\n{\"usable\":true,\"mode\":{}}\n\
        ===== demo\n{\"mode\":\"park=freeze\",\"shares\":[{\"name\":\"A\",\"asked\":50.0,\"got\":50.9}]}\n===== run\nran\nstatus 7\n\
        ===== left\n0\n0\n===== end\n";

    #[test]
    fn guest_with_good_shares_passes() {
        assert!(judge(LOG, 2.0).is_ok());
    }

    #[test]
    fn guest_with_bad_shares_or_no_end_fails() {
        assert!(judge(LOG, 0.5).is_err());
        assert!(judge(&LOG.replace("===== end\n", ""), 2.0).is_err());
        assert!(judge(&LOG.replace("cgroup2 rw", "cgroup rw"), 2.0).is_err());
    }
}
