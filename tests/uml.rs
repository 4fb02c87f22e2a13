//! The processes of a user-mode-linux instance as guest tasks: shown, reached, and gone with whoever shows them and with the instance.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use support::app::App;
use support::{
    Daemon, EXE, USERS, alone, can_run, cpu_ms, errno, has, kill9, need, sh, sh_as, state, wait_for,
    wait_until,
};

/// The first program of the guest.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
sh /agent.sh &
victim &
burner &
while :; do wait; sleep 1; done
";

const VICTIM: &str = "#!/bin/sh
trap 'echo victim: USR1 >/dev/console' USR1
trap 'echo victim: TERM >/dev/console; exit' TERM
while :; do sleep 1000 & wait $!; done
";

const BURNER: &str = "#!/bin/sh
while :; do :; done
";

/// Something with a serial line in a directory, as `compartment uml run` starts it; killed with all that it has started.
struct Instance {
    child: Child,
    dir: tempfile::TempDir,
}

impl Instance {
    fn run(make: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::Builder::new().prefix("cmpt-uml-").tempdir().expect("a directory");
        let command = make(dir.path());
        let log = fs::File::create(dir.path().join("console")).expect("a file");
        let child = Command::new(EXE)
            .args(["uml", "run"])
            .arg(dir.path().join("line"))
            .arg("--")
            .args(command)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("the command");
        Self { child, dir }
    }

    /// A guest with little else in it than the agent, a process that waits for signals and one that uses the CPU.
    fn boot() -> Self {
        Self::run(|dir| {
            let initrd = initramfs(dir);
            let words = ["linux.uml", "mem=64M", "umid=guest", "rdinit=/init", "con=null", "con0=null,fd:1"];
            let places = [format!("uml_dir={}", dir.display()), format!("initrd={}", initrd.display())];
            words.iter().map(|word| (*word).to_owned()).chain(places).collect()
        })
    }

    /// A shell script instead of a guest; it finds the serial line as descriptors 8 and 9.
    fn script(text: &str) -> Self {
        let head = "in=${0#*fd:}; exec 8<>/proc/self/fd/${in%%,*} 9<>/proc/self/fd/${0##*:}";
        Self::run(|_| vec!["sh".into(), "-c".into(), format!("{head}\n{text}")])
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn line(&self) -> PathBuf {
        self.dir.path().join("line")
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("console")).unwrap_or_default()).into_owned()
    }

    /// All its processes on the host.
    fn processes(&self) -> Vec<i32> {
        let all = fs::read_dir("/proc").expect("a directory").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            support::stat_field(*pid, 2).is_some_and(|group| group == self.pid().to_string())
                && state(*pid) != Some('Z')
        })
        .collect()
    }

    fn attach(&self, daemon: &Daemon) -> App {
        wait_until(10, "the instance to be started", || self.line().join("pid").exists());
        App::spawn(self.attach_command(daemon, &[]), daemon)
    }

    fn attach_command(&self, daemon: &Daemon, args: &[&str]) -> Command {
        let mut command = Command::new(EXE);
        command.arg("--mount").arg(&daemon.mount).args(["uml", "attach"]).arg(self.line()).args(args);
        command
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.console());
        }
        let group = Pid::from_raw(self.pid());
        let deadline = Instant::now() + Duration::from_secs(10);
        // The helpers of a killed instance live on.
        while !self.processes().is_empty() && Instant::now() < deadline {
            let _ = killpg(group, Signal::SIGKILL);
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.wait();
    }
}

fn initramfs(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    for sub in ["bin", "proc", "dev"] {
        fs::create_dir_all(root.join(sub)).expect("a directory");
    }
    let agent = Command::new(EXE).args(["uml", "agent"]).output().expect("the command").stdout;
    let files = [
        ("init", INIT.as_bytes()),
        ("agent.sh", &agent),
        ("bin/victim", VICTIM.as_bytes()),
        ("bin/burner", BURNER.as_bytes()),
    ];
    for (name, text) in files {
        fs::write(root.join(name), text).expect("a file");
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    let image = dir.join("initrd");
    let packed = sh(&format!(
        "cd {0}/root && cp \"$(command -v busybox)\" bin/busybox && find . | busybox cpio -o -H newc >{0}/initrd",
        dir.display()
    ));
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    image
}

fn can_run_uml() -> bool {
    // The guest has no libraries.
    let is_static = || !sh("ldd \"$(command -v busybox)\"").status.success();
    can_run() && has("linux.uml") && has("busybox") && need("busybox-static", is_static())
}

/// A task of the guest, looked at through the tree. The guest has two seconds to boot, on a quiet machine.
struct Shown<'a> {
    daemon: &'a Daemon,
    dir: String,
    pid: i32,
}

impl<'a> Shown<'a> {
    fn find(daemon: &'a Daemon, app: &App, comm: &str) -> Self {
        let has_name = |pid: &i32| {
            let path = daemon.path(&format!("sched-groups/{}/{pid}/comm", app.group()));
            fs::read_to_string(path).is_ok_and(|text| text.trim_end() == comm)
        };
        let pid = wait_for(60, &format!("the guest's process {comm}"), || {
            daemon.members(&app.group()).into_iter().find(has_name)
        });
        Self { daemon, dir: format!("sched-groups/{}/{pid}", app.group()), pid }
    }

    fn read(&self, file: &str) -> String {
        self.daemon.read(&format!("{}/{file}", self.dir)).trim_end().to_owned()
    }

    fn write(&self, file: &str, value: &str) -> std::io::Result<()> {
        self.daemon.write(&format!("{}/{file}", self.dir), value)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.daemon.path(&format!("{}/{file}", self.dir))
    }

    fn stat(&self, key: &str) -> u64 {
        let text = self.daemon.key(&format!("{}/stat", self.dir), key);
        text.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {key}"))
    }

    fn wait(&self, file: &str, value: &str) {
        wait_until(60, &format!("{file} of {} to be {value}", self.dir), || self.read(file) == value);
    }

    fn wait_gone(&self) {
        wait_until(60, &format!("{} to vanish", self.dir), || !self.daemon.path(&self.dir).exists());
    }
}

#[test]
fn processes_of_an_instance_are_shown_and_reached() {
    if !can_run_uml() || !has("setpriv") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let instance = Instance::boot();
    let app = instance.attach(&daemon);
    let victim = Shown::find(&daemon, &app, "victim");
    let burner = Shown::find(&daemon, &app, "burner");
    let init = Shown::find(&daemon, &app, "init");
    let kernel = Shown::find(&daemon, &app, "kthreadd");

    wait_until(60, "the command line", || !victim.read("cmdline").is_empty());
    assert_eq!(victim.read("cmdline"), "/bin/sh\0/bin/victim\0");
    assert_eq!((victim.read("owner"), victim.read("nice")), ("0".into(), "0".into()));
    victim.wait("state", "sleeping");
    burner.wait("state", "running");
    assert_eq!((victim.stat("ppid"), init.stat("ppid")), (init.pid as u64, instance.pid() as u64));
    assert!(victim.stat("memory_bytes") >= 4096 && victim.stat("age_usec") < 600_000_000);
    let used = burner.stat("usage_usec");
    wait_until(60, "the burner's CPU time", || burner.stat("usage_usec") > used);
    assert_eq!(errno(kernel.write("signal", "TERM")), libc::EOPNOTSUPP, "it is the guest kernel's own");

    // The states are the guest's: nothing on the host is stopped.
    burner.write("signal", "STOP").expect("it takes the signal");
    burner.wait("state", "stopped");
    let main = state(instance.pid()).expect("it lives");
    assert!(main != 'T', "the instance itself runs on: {main}");
    burner.write("signal", "CONT").expect("it takes the signal");
    burner.wait("state", "running");
    burner.write("nice", "7").expect("it takes another nice");
    burner.wait("nice", "7");
    victim.write("signal", "USR1").expect("it takes the signal");
    wait_until(60, "the guest to see USR1", || instance.console().contains("victim: USR1"));

    let refused = sh_as(USERS[0], &format!("echo TERM > {}", victim.path("signal").display()));
    assert!(!refused.status.success(), "another user");
    assert!(daemon.read("error_log").contains("is\\x20another\\x20user"));

    let held = fs::File::options().write(true).open(victim.path("signal")).expect("open");
    let word = victim.pid.to_string();
    let sent = Command::new(EXE).arg("--mount").arg(&daemon.mount).args(["kill", &word]).status();
    assert!(sent.expect("the command").success());
    wait_until(60, "the guest to see TERM", || instance.console().contains("victim: TERM"));
    victim.wait_gone();
    assert_eq!(errno((&held).write(b"TERM")), libc::ESRCH);

    in_a_compartment(&daemon, &instance, &burner);

    // With whoever shows them, and then with the instance.
    let group = daemon.path(&format!("sched-groups/{}", app.group()));
    drop(app);
    wait_until(10, "the tasks to go", || !group.exists());
    let mut app = instance.attach(&daemon);
    Shown::find(&daemon, &app, "burner");
    kill9(instance.pid());
    assert_eq!(app.code(), Some(0), "the instance has ended");
    let group = daemon.path(&format!("sched-groups/{}", app.group()));
    wait_until(10, "the tasks to go", || !group.exists());
}

/// The whole instance, main process, helpers and traced children, at a quarter of a CPU while one of its processes uses all that it gets.
fn in_a_compartment(daemon: &Daemon, instance: &Instance, burner: &Shown<'_>) {
    daemon.mkdir("quarter");
    daemon.write("sched-groups/quarter/cpu.max", "25000 100000").expect("a cap");
    let used = || instance.processes().into_iter().map(cpu_ms).sum::<f64>();
    let move_all = |from: &str, to: &str| {
        wait_until(60, "all processes of the instance to be moved", || {
            let inside = daemon.members(to);
            let outside: Vec<_> =
                instance.processes().into_iter().filter(|pid| !inside.contains(pid)).collect();
            // Who has ended meanwhile is moved as well as it can be.
            outside.iter().filter(|pid| daemon.rename(from, to, **pid).is_err()).count() == 0
        });
    };
    move_all("0", "quarter");

    support::assert_near(&[25.0], 5.0, || {
        let (before, began) = (used(), Instant::now());
        std::thread::sleep(Duration::from_secs(4));
        vec![100.0 * (used() - before) / (began.elapsed().as_secs_f64() * 1e3)]
    });
    for (signal, state) in [("STOP", "stopped"), ("CONT", "running")] {
        burner.write("signal", signal).expect("it takes the signal");
        burner.wait("state", state);
    }
    burner.write("nice", "11").expect("it takes another nice");
    burner.wait("nice", "11");
    // Who was born by a member meanwhile is one too.
    wait_until(60, "the group to be empty", || {
        move_all("quarter", "0");
        daemon.rmdir("quarter").is_ok()
    });
}

/// Answers as the agent does, with as many processes as the file `nr` says and the boot that the file `boot` names.
const FAKE: &str = r#"
cd "$LINE"
head -c 500000 /dev/urandom >&9
printf '\nbegin 1 x 2 1 1\n99 (lie) R 1\nend 1\nready\n' >&9
while read -r op token pid start value <&8; do
    case $op in
    list)
        echo "begin $token $(cat boot) 2 100.00 1.0"
        seq 2 "$(cat nr)" | sed 's/.*/& (p&) S 1 0 0 0 -1 0 0 0 0 0 5 5 0 0 20 0 1 0 &7 0 3 0/'
        head -c 9000 /dev/zero
        printf '\nend %s\n' "$token" ;;
    words) printf 'begin %s x 2 100.00 1.0\nend %s\n' "$token" "$token" ;;
    kill) echo "$pid $start $value" >>killed; printf 'done %s 0\n' "$token" ;;
    esac >&9
done
"#;

#[test]
fn guest_that_lies_or_boots_anew_is_followed() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let instance = Instance::script(&FAKE.replace("$LINE", "$(dirname $(readlink /proc/self/fd/9))"));
    wait_until(10, "the line", || instance.line().join("pid").exists());
    let set = |file: &str, value: &str| fs::write(instance.line().join(file), value).expect("a file");
    set("boot", "one");
    set("nr", "5000");
    let app = instance.attach(&daemon);
    let group = format!("sched-groups/{}/tasks.stat", app.group());
    let nr = || fs::read_to_string(daemon.path(&group)).unwrap_or_default();
    wait_until(60, "thousands of processes", || nr().starts_with("nr_tasks 4999\n"));
    set("nr", "3");
    wait_until(60, "most to have ended", || nr().starts_with("nr_tasks 2\n"));
    let before = Shown::find(&daemon, &app, "p3");
    assert_eq!(before.stat("memory_bytes"), 3 * 4096);
    set("boot", "two");
    before.wait_gone();
    let after = Shown::find(&daemon, &app, "p3");
    after.write("signal", "HUP").expect("it takes the signal");
    let killed = || fs::read_to_string(instance.line().join("killed")).unwrap_or_default();
    wait_until(30, "the guest to be told", || killed() == "3 37 1\n");

    let second = instance.attach_command(&daemon, &[]).output().expect("the command");
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another `uml attach`"));
}

#[test]
fn guest_without_an_agent_is_told_of() {
    if !can_run() {
        return;
    }
    let daemon = Daemon::start();
    let mut instance = Instance::script("sleep 1000");
    wait_until(10, "the line", || instance.line().join("pid").exists());

    let output = instance.attach_command(&daemon, &["--patience", "1"]).output().expect("the command");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("is the agent running in it?"), "{said}");

    let other = std::process::id().to_string();
    let output = instance.attach_command(&daemon, &["--pid", &other]).output().expect("the command");
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not have the line"), "{output:?}");

    let _ = killpg(Pid::from_raw(instance.pid()), Signal::SIGKILL);
    instance.child.wait().expect("a child");
    let output = instance.attach_command(&daemon, &[]).output().expect("the command");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no instance has the line"), "{output:?}");
}
