//! The caller's rights bound what the daemon does for them.

mod support;

use std::os::unix::fs::PermissionsExt;

use support::{
    Daemon, Program, USERS, alone, assert_shares, can_run, cgroup_of, sh_as, stat_field, wait_until,
};

const USER: u32 = 65_534;

#[test]
fn ordinary_user_has_own_groups_and_own_processes_only() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("roots", 10_000);
    let (mine, theirs) = (Program::spin(), Program::spin_as(USER));
    let tree = daemon.path("sched-groups").display().to_string();
    let may = |script: &str| sh_as(USER, &script.replace("TREE", &tree)).status.success();

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
fn logs_show_everybody_their_own() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("roots");
    let tree = daemon.mount.display().to_string();
    assert!(daemon.write("sched-groups/roots/nice", "99").is_err());
    for user in USERS {
        sh_as(
            user,
            &format!("mkdir {tree}/sched-groups/u{user}; echo {user} > {tree}/sched-groups/u{user}/nice"),
        );
    }

    let seen =
        |user| String::from_utf8_lossy(&sh_as(user, &format!("cat {tree}/error_log")).stdout).into_owned();
    let (first, second) = (seen(USERS[0]), seen(USERS[1]));

    assert!(
        first.contains(&format!("u{}", USERS[0])) && !first.contains(&format!("u{}", USERS[1])),
        "{first}"
    );
    assert!(second.contains(&format!("u{}", USERS[1])) && !second.contains("roots"), "{second}");
    let all = daemon.read("error_log");
    for part in ["roots", &format!("u{}", USERS[0]), &format!("u{}", USERS[1])] {
        assert!(all.contains(part), "{all}");
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
