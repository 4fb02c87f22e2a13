//! The tree, mounted, driven with a shell's tools. The workers are made up: what is tested is what people see.
//!
//! Needs root and `/dev/fuse`; says so and does nothing where they are missing.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use compartmentd::fuse::{Mounted, View};
use compartmentd::groups::fake::FakeLauncher;
use compartmentd::groups::host::ProcFs;
use compartmentd::groups::{Controller, Journal, Setup};
use compartmentd::notices::Notices;
use compartmentd::pools::Pools;
use compartmentd::pools::fake::FakeMemLauncher;
use compartmentd::supervise::{StateRoot, mount};
use guest_sched::host::GroupConfig;

const DEADLINE: Duration = Duration::from_secs(5);
const ALICE: u32 = 64_001;

/// A mounted tree with made-up workers over real processes; unmounted when dropped.
struct Fixture {
    mounted: Option<Mounted>,
    controller: Arc<Controller>,
    pools: Arc<Pools>,
    workers: Arc<FakeMemLauncher>,
    dir: PathBuf,
    root: PathBuf,
}

impl Fixture {
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            eprintln!("skipped: needs root and /dev/fuse");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory").keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("for all");
        let (notices, delivered) = Notices::new();
        let controller = Controller::new(Setup {
            host: Arc::new(ProcFs),
            launcher: Arc::new(FakeLauncher::default()),
            journal: Arc::new(Journal::new(notices.clone())),
            notices: notices.clone(),
            state: StateRoot::open(&dir.join("state")).expect("a state directory"),
            template: GroupConfig::default(),
        });
        let workers = Arc::new(FakeMemLauncher::default());
        let pools = compartmentd::pools::beside(&controller, workers.clone()).expect("pools");
        let root = mount::prepare(&dir.join("tree")).expect("a mount point");
        let tree = compartmentd::tree::rooms::tree(&controller, &pools, &notices, Path::new("/proc"))
            .expect("a tree");
        let view = View::new(Arc::new(tree), controller.clone());
        let mounted = Mounted::mount(view, &root, delivered, |_| {}).expect("a mount");
        Some(Self { mounted: Some(mounted), controller, pools, workers, dir, root })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("read {path}: {e}"))
    }

    /// Runs a shell in the tree as a user; gives whether it succeeded and all that it said.
    fn sh_as(&self, uid: u32, script: &str) -> (bool, String) {
        let out = Command::new("bash")
            .args(["-c", script])
            .current_dir(&self.root)
            .env("LC_ALL", "C")
            .uid(uid)
            .gid(uid)
            .output()
            .expect("a shell");
        (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    }

    fn sh(&self, script: &str) -> (bool, String) {
        self.sh_as(0, script)
    }

    fn ok(&self, script: &str) -> String {
        let (ok, said) = self.sh(script);
        assert!(ok, "{script}: {said}");
        said
    }

    /// Runs a script that must fail with these words, and leave a line with that errno in `error_log`.
    fn refused(&self, script: &str, words: &str, errno: &str) {
        let before = self.read("error_log").lines().count();
        let (ok, said) = self.sh(script);
        assert!(!ok && said.contains(words), "{script}: {said}");
        let log = self.read("error_log");
        // mv(1) tries again without RENAME_NOREPLACE where it is told EOPNOTSUPP.
        let tries = if errno == "EOPNOTSUPP" && script.starts_with("mv") { 2 } else { 1 };
        assert_eq!(log.lines().count(), before + tries, "{log}");
        assert!(log.lines().last().expect("a line").contains(&format!(" errno={errno} ")), "{log}");
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.pools.dissolve_all();
        self.controller.dissolve_all();
        drop(self.mounted.take());
        if mount::is_mounted(&self.root) {
            let _ = mount::detach(&self.root);
        }
        let _ = fs::remove_dir(&self.root);
        let _ = fs::remove_dir_all(self.dir.join("state"));
        let _ = fs::remove_dir(&self.dir);
    }
}

/// A child that is killed when dropped.
struct Kid(Child);

impl Kid {
    fn sleep_as(uid: u32) -> Self {
        Self(Command::new("sleep").arg("60").uid(uid).gid(uid).stdin(Stdio::null()).spawn().expect("sleep"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Kid {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn cat(fixture: &Fixture, path: &str) -> (Kid, BufReader<ChildStdout>) {
    let mut child = Command::new("cat").arg(fixture.path(path)).stdout(Stdio::piped()).spawn().expect("cat");
    let out = BufReader::new(child.stdout.take().expect("piped"));
    (Kid(child), out)
}

#[test]
fn lasting_group_is_made_filled_tuned_emptied_and_removed() {
    let Some(tree) = Fixture::new() else { return };
    let kid = Kid::sleep_as(0);
    let pid = kid.pid();

    assert_eq!(tree.read("version"), format!("compartments {} abi 1\n", env!("CARGO_PKG_VERSION")));
    tree.ok("mkdir sched-groups/web");
    tree.ok(&format!("mv sched-groups/0/{pid} sched-groups/web/"));
    assert!(tree.path(&format!("sched-groups/web/{pid}")).is_dir());
    assert!(!tree.path(&format!("sched-groups/0/{pid}")).exists());
    for (file, value) in [
        ("vcpus", "2"),
        ("nice", "-5"),
        ("cpu.max", "25000 100000"),
        ("slice_usec", "2000"),
        ("slice_usec", "policy"),
        ("cpu.max", "max 5000"),
    ] {
        tree.ok(&format!("echo {value} > sched-groups/web/{file}"));
        assert_eq!(tree.read(&format!("sched-groups/web/{file}")), format!("{value}\n"));
        tree.ok(&format!("cat sched-groups/web/{file} > /tmp/ct.$$ && cat /tmp/ct.$$ > sched-groups/web/{file}; rm /tmp/ct.$$"));
    }
    for (file, value) in [("nice", "7"), ("policy", "rr 5"), ("policy", "batch")] {
        tree.ok(&format!("echo {value} > sched-groups/web/{pid}/{file}"));
        assert_eq!(tree.read(&format!("sched-groups/web/{pid}/{file}")), format!("{value}\n"));
    }
    assert_eq!(tree.read(&format!("sched-groups/web/{pid}/comm")), "sleep\n");
    assert!(tree.read("sched-groups/web/cpu.promise").contains("error_pct 0.00\n"));
    assert!(tree.read("sched-groups/web/cpu.stat").starts_with("usage_usec 0\n"));
    tree.refused("rmdir sched-groups/web", "busy", "EBUSY");
    tree.refused("echo guest_o1_scheduler_x > sched-groups/web/scheduler", "Invalid argument", "EINVAL");
    tree.ok(&format!("mv sched-groups/web/{pid} sched-groups/0/"));
    tree.ok("rmdir sched-groups/web");
    assert!(!tree.path("sched-groups/web").exists());
}

#[test]
fn signal_file_kills_and_the_entry_goes() {
    let Some(tree) = Fixture::new() else { return };
    let mut kid = Kid::sleep_as(0);
    let pid = kid.pid();
    let comm = tree.path(&format!("sched-groups/0/{pid}/comm"));
    assert!(comm.exists());

    tree.refused(&format!("echo SIGWHAT > sched-groups/0/{pid}/signal"), "Invalid argument", "EINVAL");
    tree.ok(&format!("echo TERM > sched-groups/0/{pid}/signal"));

    let status = kid.0.wait().expect("our child");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    // The kernel still remembers the entry; whoever uses it hears that the process is gone.
    let late =
        fs::rename(tree.path(&format!("sched-groups/0/{pid}")), tree.path(&format!("sched-groups/0/{pid}")));
    assert!(late.is_err_and(|e| matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENOENT))));
    tree.refused("mkdir sched-groups/12", "Invalid argument", "EINVAL");
    eventually("forgetting the process", || !comm.exists());
}

#[test]
fn held_group_lives_as_long_as_its_reader() {
    let Some(tree) = Fixture::new() else { return };
    let (reader, mut out) = cat(&tree, "schedulers/guest_o1_scheduler");
    let id = reader.pid();
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, format!("Created sched_group {id} ('guest_o1_scheduler')\n"));
    assert_eq!(tree.read(&format!("sched-groups/{id}/representative")), format!("{id}\n"));
    let kid = Kid::sleep_as(0);
    let pid = kid.pid();
    tree.ok(&format!("mv sched-groups/0/{pid} sched-groups/{id}/"));
    tree.refused(&format!("rmdir sched-groups/{id}"), "busy", "EBUSY");
    // Longer than the time after which its read is interrupted.
    std::thread::sleep(Duration::from_millis(500));
    assert!(tree.path(&format!("sched-groups/{id}")).is_dir());

    drop(reader);

    eventually("dissolving", || !tree.path(&format!("sched-groups/{id}")).exists());
    eventually("returning", || tree.path(&format!("sched-groups/0/{pid}")).is_dir());
}

#[test]
fn nested_groups_refuse_circles_and_return_members_outwards() {
    let Some(tree) = Fixture::new() else { return };
    let mut line = String::new();
    let (a, mut a_out) = cat(&tree, "schedulers/guest_o1_scheduler");
    a_out.read_line(&mut line).expect("a line");
    let (b, mut b_out) = cat(&tree, "schedulers/guest_o1_scheduler");
    b_out.read_line(&mut line).expect("a line");
    let (a_id, b_id, kid) = (a.pid(), b.pid(), Kid::sleep_as(0));
    tree.ok(&format!("mv sched-groups/0/{} sched-groups/{b_id}/", kid.pid()));

    tree.ok(&format!("mv sched-groups/0/{b_id} sched-groups/{a_id}/"));

    assert!(tree.path(&format!("sched-groups/{a_id}/{b_id}/nice")).exists());
    assert!(tree.path(&format!("sched-groups/{b_id}/cpu.stat")).exists());
    tree.refused(&format!("mv sched-groups/0/{a_id} sched-groups/{b_id}/"), "Too many levels", "ELOOP");
    tree.refused(&format!("mv sched-groups/0/{a_id} sched-groups/{a_id}/"), "Too many levels", "ELOOP");
    drop(b);
    eventually("returning to the outer group", || {
        tree.path(&format!("sched-groups/{a_id}/{}", kid.pid())).is_dir()
    });
}

#[test]
fn processes_of_the_kernel_and_ours_are_refused() {
    let Some(tree) = Fixture::new() else { return };
    tree.ok("mkdir sched-groups/x");

    tree.refused("mv sched-groups/0/2 sched-groups/x/", "not supported", "EOPNOTSUPP");
    tree.refused(
        &format!("mv sched-groups/0/{} sched-groups/x/", std::process::id()),
        "not supported",
        "EOPNOTSUPP",
    );
    tree.refused("mkdir sched-groups/x/y", "not permitted", "EPERM");
    tree.refused("mkdir 'sched-groups/a b'", "Invalid argument", "EINVAL");
    tree.refused("mv sched-groups/x sched-groups/y", "not permitted", "EPERM");
    let (ok, said) = tree.sh("mv sched-groups/0/4194303 sched-groups/x/");
    assert!(!ok && said.contains("No such process"), "{said}");
}

#[test]
fn ordinary_user_has_own_groups_and_processes_only() {
    let Some(tree) = Fixture::new() else { return };
    let (own, roots) = (Kid::sleep_as(ALICE), Kid::sleep_as(0));
    tree.ok("mkdir sched-groups/roots");

    let (ok, said) = tree.sh_as(
        ALICE,
        &format!("mkdir sched-groups/alices && mv sched-groups/0/{} sched-groups/alices/", own.pid()),
    );
    assert!(ok, "{said}");
    assert_eq!(fs::metadata(tree.path("sched-groups/alices")).expect("is there").uid(), ALICE);
    for script in [
        format!("mv sched-groups/0/{} sched-groups/alices/", roots.pid()),
        format!("mv sched-groups/alices/{} sched-groups/roots/", own.pid()),
        "echo 5 > sched-groups/roots/nice".into(),
        "echo -5 > sched-groups/alices/nice".into(),
        format!("echo 9 > sched-groups/0/{}/signal", roots.pid()),
        format!("echo 5 > sched-groups/0/{}/nice", roots.pid()),
        "rmdir sched-groups/roots".into(),
        "echo user=1 sched=alices > rules".into(),
        "chown 0 sched-groups/alices".into(),
    ] {
        let (ok, said) = tree.sh_as(ALICE, &script);
        assert!(
            !ok && (said.contains("ermission denied") || said.contains("not permitted")),
            "{script}: {said}"
        );
    }
    let (ok, said) =
        tree.sh_as(ALICE, &format!("echo -5 > sched-groups/alices/{}/nice && cat error_log", own.pid()));
    assert!(ok && !said.contains("roots/x"), "{said}");
    tree.ok(&format!("chown {ALICE} sched-groups/roots"));
    eventually("the new owner", || {
        fs::metadata(tree.path("sched-groups/roots")).is_ok_and(|m| m.uid() == ALICE)
    });
    let (ok, said) = tree.sh_as(ALICE, &format!("mv sched-groups/alices/{} sched-groups/roots/", own.pid()));
    assert!(ok, "{said}");
}

#[test]
fn events_are_polled_and_read_without_blocking() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    use std::os::unix::fs::OpenOptionsExt;
    let Some(tree) = Fixture::new() else { return };
    let mut events = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(tree.path("events"))
        .expect("events");
    let mut buf = [0; 4096];
    assert_eq!(events.read(&mut buf).map_err(|e| e.kind()), Err(std::io::ErrorKind::WouldBlock));
    let wait = |ms: u16| {
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(ms)).expect("poll")
    };
    assert_eq!(wait(0), 0);

    let path = tree.path("sched-groups/x");
    std::thread::scope(|scope| {
        let polling = scope.spawn(|| wait(5000));
        fs::create_dir(&path).expect("a group");
        assert_eq!(polling.join().expect("no panic"), 1);
    });

    let len = events.read(&mut buf).expect("a line");
    assert!(String::from_utf8_lossy(&buf[..len]).contains(" event=created group=x kind=lasting "));
    let (reader, mut out) = cat(&tree, "events");
    let mut line = String::new();
    eventually("an event that cat prints", || {
        // Cat may not have opened the file yet: an event that comes earlier is not for it.
        fs::create_dir(tree.path("sched-groups/y")).expect("a group");
        fs::remove_dir(tree.path("sched-groups/y")).expect("removed");
        nix::poll::poll(&mut [PollFd::new(out.get_ref().as_fd(), PollFlags::POLLIN)], 100u16).expect("poll")
            == 1
    });
    out.read_line(&mut line).expect("a line");
    assert!(line.starts_with("time=") && line.contains(" group=y"), "{line}");
    drop(reader);
}

#[test]
fn rules_put_processes_where_they_say() {
    let Some(tree) = Fixture::new() else { return };
    tree.ok("mkdir sched-groups/naps");
    let exe = fs::canonicalize("/bin/sleep").expect("sleep");
    tree.refused("echo nonsense > rules", "Invalid argument", "EINVAL");
    tree.ok("mkdir mem-groups/naps");
    let rule = format!("user={ALICE} exe={} sched=naps mem=naps\n", exe.display());
    if let Err(e) = fs::write(tree.path("rules"), &rule) {
        eprintln!("skipped: the kernel tells nobody of programs: {e}");
        return;
    }
    assert_eq!(tree.read("rules"), rule);

    let (kid, other) = (Kid::sleep_as(ALICE), Kid::sleep_as(0));

    eventually("being placed", || tree.path(&format!("sched-groups/naps/{}", kid.pid())).is_dir());
    eventually("being placed", || tree.path(&format!("mem-groups/naps/{}", kid.pid())).is_dir());
    assert!(tree.path(&format!("sched-groups/0/{}", other.pid())).is_dir());
    tree.ok("echo > rules");
    assert_eq!(tree.read("rules"), "");
    let late = Kid::sleep_as(ALICE);
    std::thread::sleep(Duration::from_millis(100));
    assert!(tree.path(&format!("sched-groups/0/{}", late.pid())).is_dir());
}

#[test]
fn held_mem_group_lives_as_long_as_its_reader() {
    let Some(tree) = Fixture::new() else { return };
    let (reader, mut out) = cat(&tree, "memories/guest_vm");
    let id = reader.pid();
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, format!("Created mem_group {id} ('guest_vm')\n"));
    assert_eq!(tree.read(&format!("mem-groups/{id}/representative")), format!("{id}\n"));
    let kid = Kid::sleep_as(0);
    let pid = kid.pid();
    tree.ok(&format!("mv mem-groups/0/{pid} mem-groups/{id}/"));
    assert!(tree.path(&format!("sched-groups/0/{pid}")).is_dir());
    tree.refused(&format!("rmdir mem-groups/{id}"), "busy", "EBUSY");
    tree.refused(&format!("mv mem-groups/{id}/{pid} sched-groups/0/"), "not permitted", "EPERM");

    drop(reader);

    eventually("dissolving", || !tree.path(&format!("mem-groups/{id}")).exists());
    eventually("returning", || tree.path(&format!("mem-groups/0/{pid}")).is_dir());
}

#[test]
fn mem_groups_values_are_written_with_the_callers_rights() {
    let Some(tree) = Fixture::new() else { return };
    let (ok, said) = tree.sh_as(ALICE, "mkdir mem-groups/alices && echo 64M > mem-groups/alices/memory.max");
    assert!(ok, "{said}");
    assert_eq!(tree.read("mem-groups/alices/memory.max"), "67108864\n");
    let shut = tree.dir.join("state");

    let tiers =
        |tiers: &str| tree.sh_as(ALICE, &format!("echo '{tiers}' > mem-groups/alices/memory.swap.tiers"));
    let (ok, said) = tiers(&format!("file:1G:{}", shut.display()));
    assert!(!ok && said.contains("Permission denied"), "{said}");
    let before = tree.read("mem-groups/alices/memory.swap.tiers");
    assert!(before.starts_with("file:"), "{before}");
    assert!(!tiers("lz4:64M").0 && !tiers("file:1G:relative").0);
    let (ok, said) = tiers("lz4:16M");
    assert!(ok, "{said}");
    assert_eq!(tree.read("mem-groups/alices/memory.swap.tiers"), "lz4:16M\n");
    for bad in ["99999999999999999999", "16777216T", "1K", "-1", "64MiB", ""] {
        tree.refused(&format!("echo {bad} > mem-groups/alices/memory.max"), "Invalid argument", "EINVAL");
    }
}

#[test]
fn pressure_is_polled_by_a_trigger_as_the_kernels_own() {
    use std::io::Write;
    use std::os::fd::AsFd;

    use guest_mm::uffd::table::{MemStat, Stall};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let Some(tree) = Fixture::new() else { return };
    tree.ok("mkdir mem-groups/web");
    let pool = tree.pools.group_named("web").expect("made");
    let worker = tree.workers.worker(&pool.dir).expect("its worker");
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(tree.path("mem-groups/web/memory.pressure"))
        .expect("a file");
    assert_eq!(file.write(b"some 1 1").map_err(|e| e.raw_os_error()), Err(Some(libc::EINVAL)));
    file.write_all(b"some 100000 1000000\0").expect("a trigger");
    let wait = |ms: u16| {
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        poll(&mut fds, PollTimeout::from(ms)).expect("poll");
        fds[0].revents().expect("known").contains(PollFlags::POLLPRI)
    };
    assert!(!wait(200));

    std::thread::scope(|scope| {
        let polling = scope.spawn(|| wait(5000));
        let some = Stall { total_usec: 150_000, ..Stall::default() };
        worker.inside(|inside| inside.stat = MemStat { some, ..MemStat::default() });
        assert!(polling.join().expect("no panic"));
    });
    assert!(!wait(0), "told once");
    assert!(tree.read("mem-groups/web/memory.pressure").contains("total=150000\nfull avg10=0.00"));
}

#[test]
fn evictions_that_take_long_let_nobody_else_wait() {
    let Some(tree) = Fixture::new() else { return };
    // More than there are threads for requests.
    let names: Vec<String> = (0..20).map(|n| format!("pool{n}")).collect();
    for name in &names {
        tree.ok(&format!("mkdir mem-groups/{name}"));
        let pool = tree.pools.group_named(name).expect("made");
        tree.workers.worker(&pool.dir).expect("its worker").inside(|inside| {
            (inside.extra.evictable, inside.extra.eviction_takes) = (4096, Duration::from_secs(2));
        });
    }
    let start = Instant::now();
    std::thread::scope(|scope| {
        let writes: Vec<_> = names
            .iter()
            .map(|name| {
                let file = tree.path(&format!("mem-groups/{name}/memory.reclaim"));
                scope.spawn(move || fs::write(file, "4096"))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));

        assert!(tree.read("version").starts_with("compartments"));
        assert_eq!(tree.read("mem-groups/pool0/memory.max"), "max\n");

        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        writes.into_iter().for_each(|one| one.join().expect("no panic").expect("evicted"));
    });
}
