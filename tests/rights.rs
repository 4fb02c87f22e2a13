//! The caller's rights bound what the daemon does for them.

mod support;

use support::{Daemon, Program, alone, can_run, sh_as, wait_until};

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
