//! The caller's rights bound what the daemon does for them.

mod support;

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};

use nix::unistd::{Uid, setfsuid};
use support::{
    Daemon, Program, USERS, alone, assert_shares, can_run, cgroup_of, errno, has, sh_as, stat_field,
    wait_until,
};

const USER: u32 = USERS[0];

/// Does something with the file-system rights of an ordinary user, which are what the tree sees.
fn as_user<T: Send>(uid: u32, what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // Of this thread only; takes the capabilities over files with it.
            setfsuid(Uid::from_raw(uid));
            what()
        });
        thread.join().expect("the thread")
    })
}

fn assert_denied(what: &str, result: io::Result<()>) {
    let got = errno(result);
    assert!([libc::EPERM, libc::EACCES].contains(&got), "{what}: errno {got}");
}

#[test]
fn ordinary_user_has_own_groups_and_own_processes_only() {
    if !can_run() || !has("setpriv") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("roots", 10_000);
    let (mine, theirs) = (Program::spin(), Program::spin_as(USER));
    let tree = daemon.path("sched-groups").display().to_string();
    let may = |script: &str| {
        let output = sh_as(USER, &script.replace("TREE", &tree));
        eprintln!("{script}: {}", String::from_utf8_lossy(&output.stderr));
        output.status.success()
    };

    assert!(may("mkdir TREE/users"), "a group of one's own");
    assert!(may(&format!("mv TREE/0/{} TREE/users/", theirs.pid())), "an own process");
    assert!(may(&format!("echo 5 > TREE/users/{}/nice", theirs.pid())), "guest nice of an own process");
    assert!(may("echo 20000 > TREE/users/slice_usec"));
    assert_eq!(daemon.members("users"), [theirs.pid()]);

    assert!(!may(&format!("mv TREE/0/{} TREE/users/", mine.pid())), "another's process");
    assert!(!may(&format!("mv TREE/users/{} TREE/roots/", theirs.pid())), "another's group");
    assert!(!may("echo 5000 > TREE/roots/slice_usec"), "another's setting");
    assert!(!may("rmdir TREE/roots"));
    assert!(!may("echo -5 > TREE/users/nice"), "more weight on the host");
    assert!(!may("echo user=0 sched=users > TREE/../rules"), "rules are root's");
    assert_eq!(daemon.members("roots"), Vec::<i32>::new());
    assert_eq!(daemon.read("sched-groups/roots/slice_usec"), "10000\n");

    assert!(may(&format!("mv TREE/users/{} TREE/0/", theirs.pid())), "and back");
    assert!(may("rmdir TREE/users"));
    wait_until(5, "the group to be gone", || !daemon.path("sched-groups/users").exists());
}

#[test]
fn what_is_anothers_is_refused_with_eperm_or_eacces() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("roots");
    let (mine, member, theirs) = (Program::spin(), Program::spin(), Program::spin_as(USER));
    daemon.join("roots", member.pid()).expect("joined");
    let others = Program::spin_as(USERS[1]);

    as_user(USER, || {
        daemon.mkdir("users");
        assert_eq!(fs::metadata(daemon.path("sched-groups/users")).expect("stat").uid(), USER);
        let theirs_dir = daemon.path(&format!("sched-groups/0/{}", theirs.pid()));
        assert_eq!(fs::metadata(theirs_dir).expect("stat").uid(), USER);
        daemon.join("users", theirs.pid()).expect("an own process into an own group");
        for (file, value) in
            [("slice_usec", "5000"), ("vcpus", "2"), ("cpu.max", "50000 100000"), ("nice", "4")]
        {
            daemon.write(&format!("sched-groups/users/{file}"), value).expect("an own setting");
        }
        daemon
            .write(&format!("sched-groups/users/{}/nice", theirs.pid()), "-20")
            .expect("guest nice is its own");
        daemon.write(&format!("sched-groups/users/{}/signal", theirs.pid()), "0").expect("an own process");

        assert_denied("root's process", daemon.join("users", mine.pid()));
        assert_denied("another user's process", daemon.join("users", others.pid()));
        assert_denied("root's member", daemon.rename("roots", "users", member.pid()));
        assert_denied("root's member out", daemon.rename("roots", "0", member.pid()));
        assert_denied("into root's group", daemon.rename("users", "roots", theirs.pid()));
        assert_denied("root's group", daemon.rmdir("roots"));
        assert_denied("root's group into the user's", daemon.nest("roots", "users"));
        assert_denied("the user's group into root's", daemon.nest("users", "roots"));
        for (file, value) in [("slice_usec", "5000"), ("vcpus", "2"), ("cpu.max", "max"), ("nice", "4")] {
            assert_denied(file, daemon.write(&format!("sched-groups/roots/{file}"), value));
        }
        for (file, value) in [("nice", "5"), ("policy", "batch"), ("signal", "TERM")] {
            assert_denied(file, daemon.write(&format!("sched-groups/roots/{}/{file}", member.pid()), value));
        }
        assert_denied(
            "nice of a process of root's",
            daemon.write(&format!("sched-groups/0/{}/nice", mine.pid()), "5"),
        );
        assert_denied("a signal", daemon.write(&format!("sched-groups/0/{}/signal", mine.pid()), "KILL"));
        assert_denied("more weight", daemon.write("sched-groups/users/nice", "-1"));
        assert_denied("rules", daemon.write("rules", "user=65534 sched=users"));
        let chown = std::os::unix::fs::chown(daemon.path("sched-groups/roots"), Some(USER), None);
        assert_denied("chown of root's group", chown);
    });

    assert_eq!(daemon.members("roots"), [member.pid()]);
    assert_eq!(daemon.members("users"), [theirs.pid()]);
    assert_eq!(daemon.read("sched-groups/roots/nice"), "0\n");
    assert_eq!(daemon.read("sched-groups/users/nice"), "4\n");
    assert_eq!(daemon.read("rules"), "");
    assert_eq!(support::nice(mine.pid()), support::nice(std::process::id() as i32));
    // Root may give a group away: whose it is then tunes it.
    std::os::unix::fs::chown(daemon.path("sched-groups/users"), Some(USERS[1]), None).expect("chown");
    as_user(USER, || assert_denied("given away", daemon.write("sched-groups/users/vcpus", "1")));
    as_user(USERS[1], || daemon.write("sched-groups/users/vcpus", "1")).expect("one's own by now");
}

/// An open `events` that does not wait.
fn open_events(daemon: &Daemon) -> fs::File {
    fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(daemon.path("events")).expect("events")
}

fn all_of(events: &mut fs::File) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while let Ok(n @ 1..) = events.read(&mut buffer) {
        text += &String::from_utf8_lossy(&buffer[..n]);
    }
    text
}

#[test]
fn events_and_refusals_are_seen_by_whom_they_are_about() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let mut roots = open_events(&daemon);
    let mut users = USERS.map(|uid| as_user(uid, || open_events(&daemon)));

    daemon.mkdir("roots");
    assert_eq!(errno(daemon.write("sched-groups/roots/nice", "root-was-here")), libc::EINVAL);
    for (uid, name) in USERS.into_iter().zip(["first", "second"]) {
        as_user(uid, || {
            daemon.mkdir(name);
            let refused = daemon.write(&format!("sched-groups/{name}/nice"), &format!("{name}-was-here"));
            assert_eq!(errno(refused), libc::EINVAL);
        });
    }

    let seen = all_of(&mut roots);
    for name in ["roots", "first", "second"] {
        assert!(seen.contains(&format!("event=created group={name} ")), "{seen}");
    }
    let log = daemon.read("error_log");
    assert!(["root-", "first-", "second-"].iter().all(|v| log.contains(v)), "{log}");
    for (i, uid) in USERS.into_iter().enumerate() {
        let (own, others) = if i == 0 { ("first", "second") } else { ("second", "first") };
        let seen = all_of(&mut users[i]);
        let log = as_user(uid, || daemon.read("error_log"));
        for text in [&seen, &log] {
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(text.contains(own) && !text.contains(others) && !text.contains("root"), "{text}");
        }
    }
}

#[test]
fn users_do_not_touch_each_others_groups_and_processes() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let (mine, theirs) = (Program::spin_as(USERS[0]), Program::spin_as(USERS[1]));
    let tree = daemon.path("sched-groups").display().to_string();
    let may = |user: u32, script: &str| sh_as(user, &script.replace("TREE", &tree)).status.success();
    assert!(may(USERS[0], "mkdir TREE/mine") && may(USERS[1], "mkdir TREE/theirs"));
    assert!(may(USERS[0], &format!("mv TREE/0/{} TREE/mine", mine.pid())));
    assert!(may(USERS[1], &format!("mv TREE/0/{} TREE/theirs", theirs.pid())));

    for script in [
        format!("mv TREE/theirs/{} TREE/mine", theirs.pid()),
        format!("mv TREE/theirs/{} TREE/0", theirs.pid()),
        format!("mv TREE/mine/{} TREE/theirs", mine.pid()),
        format!("echo 5 > TREE/theirs/{}/nice", theirs.pid()),
        format!("echo KILL > TREE/theirs/{}/signal", theirs.pid()),
        "echo 5 > TREE/theirs/nice".to_owned(),
        "echo '1000 100000' > TREE/theirs/cpu.max".to_owned(),
        "rmdir TREE/theirs".to_owned(),
        // Neither the other's group in one's own, nor one's own in the other's.
        "mv TREE/0/$(cat TREE/theirs/representative) TREE/mine".to_owned(),
        "mv TREE/0/$(cat TREE/mine/representative) TREE/theirs".to_owned(),
        "echo fifo > TREE/mine/nice".to_owned(),
    ] {
        assert!(!may(USERS[0], &script), "{script}");
    }

    assert_eq!(daemon.members("mine"), [mine.pid()]);
    assert_eq!(daemon.members("theirs"), [theirs.pid()]);
    // Subdividing one's own is allowed.
    assert!(may(USERS[0], "mkdir TREE/sub && mv TREE/0/$(cat TREE/sub/representative) TREE/mine"));
    assert_eq!(daemon.members("mine").len(), 2);
}

#[test]
fn member_that_executes_a_setuid_program_stays_in_its_share_and_is_the_users_no_more() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("mode");
    let shell = dir.path().join("rootsh");
    std::fs::copy("/bin/sh", &shell).expect("a copy");
    std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o4755)).expect("mode");
    let go = dir.path().join("go");
    let script = format!(
        "while [ ! -e {} ]; do :; done; exec {} -p -c 'while :; do :; done'",
        go.display(),
        shell.display()
    );
    let user = USERS[0];
    let ids = [format!("--reuid={user}"), format!("--regid={user}")];
    let p = Program::start(&["setpriv", &ids[0], &ids[1], "--clear-groups", "sh", "-c", &script]);
    let (outside, hog) = (Program::spin(), Program::spin_as(user));
    let tree = daemon.path("sched-groups").display().to_string();
    let may = |script: &str| sh_as(user, &script.replace("TREE", &tree)).status.success();
    assert!(may(&format!("mkdir TREE/u; mv TREE/0/{} TREE/0/{} TREE/u", p.pid(), hog.pid())));

    std::fs::write(&go, "").expect("written");

    let is_roots = || {
        std::fs::read_to_string(format!("/proc/{}/status", p.pid()))
            .is_ok_and(|s| s.lines().any(|l| l == format!("Uid:\t{user}\t0\t0\t0")))
    };
    wait_until(10, "the exec", is_roots);
    assert_shares(&[outside.pid(), hog.pid(), p.pid()], &[50.0, 25.0, 25.0], 4.0, 3);
    assert!(!may(&format!("mv TREE/u/{} TREE/0", p.pid())), "it is root's now");
    daemon.rename("u", "0", p.pid()).expect("root may");
    assert!(!cgroup_of(p.pid()).contains("compartment."));
    assert_eq!(stat_field(p.pid(), 0).as_deref(), Some("R"));
}
