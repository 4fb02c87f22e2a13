//! A nested group is one task of the outer one.

mod support;

use support::{Daemon, Program, alone, assert_shares, can_run, errno, wait_until};

#[test]
fn nested_group_counts_like_one_member_of_the_outer_one() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("outer", 10_000);
    daemon.group("inner", 10_000);
    let (outside, a) = (Program::spin(), Program::spin());
    let (b, c) = (Program::spin(), Program::spin());
    daemon.join("outer", a.pid()).expect("joined");
    for p in [&b, &c] {
        daemon.join("inner", p.pid()).expect("joined");
    }

    daemon.nest("inner", "outer").expect("nested");

    assert_shares(&[outside.pid(), a.pid(), b.pid(), c.pid()], &[50.0, 25.0, 12.5, 12.5], 3.0, 4);
    assert!(daemon.members("outer").contains(&daemon.representative("inner")));
    assert_eq!(errno(daemon.nest("outer", "inner")), libc::ELOOP, "no circle");

    // The inner group goes back to the host: two groups and a loop then share alike.
    daemon.rename("outer", "0", daemon.representative("inner")).expect("taken out");
    wait_until(5, "the representative to be gone", || daemon.members("outer") == [a.pid()]);
    assert_shares(&[outside.pid(), a.pid(), b.pid(), c.pid()], &[33.3, 33.3, 16.7, 16.7], 4.0, 4);
}
