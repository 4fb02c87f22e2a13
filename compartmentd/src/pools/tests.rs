//! mem_groups with made-up processes and workers: what is theirs alone, and that they are groups like the others.

use std::sync::Arc;
use std::time::Duration;

use guest_mm::uffd::proto::{Event, Tier};
use guest_mm::uffd::table::{MemStat, Stall};

use super::watch::{Topic, Watch, Watches};
use super::{Pool, Pools};
use crate::errno::{Refusal, Why};
use crate::groups::tests::{World, errno, eventually, user};
use crate::groups::{Caller, GroupId};
use crate::notices::{Notice, Notices};
use crate::supervise::StateRoot;
use crate::tree::{Stream, Urgency, Watched as _};

const ROOT: Caller = Caller::DAEMON;

fn put(world: &World, pid: i32, pool: &Pool) -> Result<(), Refusal> {
    world.pools.place(pid, pool.id)
}

fn at(world: &World, pid: i32) -> Option<GroupId> {
    world.pools.locate(pid).map(|(_, id)| id)
}

/// Reads events until one line has all of these words.
fn eventually_told(events: &Arc<dyn Stream>, words: &[&str]) {
    let mut told = String::new();
    eventually(|| {
        let more = events.read(&ROOT, 65_536).expect("a read").unwrap_or_default();
        told.push_str(&String::from_utf8_lossy(&more));
        told.lines().any(|line| words.iter().all(|word| line.contains(word)))
    });
}

#[test]
fn process_is_in_a_mem_group_and_a_sched_group_at_once() {
    let world = World::new();
    let (pool, group) = (world.pool(&ROOT, "web"), world.group(&ROOT, "web"));
    world.host.add(10, 1000);

    assert_eq!(put(&world, 10, &pool), Ok(()));
    assert_eq!(world.put(10, &group), Ok(()));

    assert_eq!(world.mem_worker(&pool).pids(), [10]);
    assert_eq!(world.controller.locate(10).map(|(_, id)| id), Some(group.id));
    assert!(pool.dir.starts_with(world.controller.state().path().join("mem")));
    assert_eq!(errno(world.pools.remove(&ROOT, "web")), libc::EBUSY);
    assert_eq!(world.pools.move_process(&ROOT, 10, pool.id, GroupId::HOST), Ok(()));
    assert_eq!(world.pools.remove(&ROOT, "web"), Ok(()));
    assert!(!pool.dir.exists() && world.controller.group_named("web").is_some());
}

#[test]
fn pages_go_back_where_they_were_if_a_join_is_refused() {
    let world = World::new();
    let (a, b) = (world.pool(&ROOT, "a"), world.pool(&ROOT, "b"));
    world.host.add(10, 1000);
    put(&world, 10, &a).expect("moved");
    world.mem_worker(&b).refuse_joins(true);

    assert_eq!(errno(world.pools.move_process(&ROOT, 10, a.id, b.id)), libc::EOPNOTSUPP);
    assert_eq!((world.mem_worker(&a).pids(), at(&world, 10)), (vec![10], Some(a.id)));

    let events = world.pools.journal().open_events(0);
    world.mem_worker(&a).refuse_joins(true);
    assert_eq!(errno(world.pools.move_process(&ROOT, 10, a.id, b.id)), libc::EOPNOTSUPP);
    assert_eq!(at(&world, 10), Some(GroupId::HOST));
    eventually_told(&events, &["event=escaped", "group=a", "pid=10", "in=mem-groups"]);
}

#[test]
fn process_whose_join_is_not_answered_is_not_given_to_another_worker() {
    let world = World::new();
    let (a, b) = (world.pool(&ROOT, "a"), world.pool(&ROOT, "b"));
    world.host.add(10, 1000);
    put(&world, 10, &a).expect("moved");
    world.mem_worker(&b).refuse_joins_for(Some(Why::Broken));

    assert_eq!(errno(world.pools.move_process(&ROOT, 10, a.id, b.id)), libc::EIO);

    assert_eq!((world.mem_worker(&a).pids(), at(&world, 10)), (vec![], Some(GroupId::HOST)));
    // It had been at it still: the index follows what it publishes when it is reached again.
    world.mem_worker(&b).fork_silently(10);
    world.mem_worker(&b).die();
    eventually(|| at(&world, 10) == Some(b.id));
}

#[test]
fn keepers_and_workers_of_either_kind_are_no_members_of_the_other() {
    let world = World::new();
    let (pool, group) = (world.pool(&ROOT, "m"), world.group(&ROOT, "s"));
    let (mem, sched) = (pool.driver().expect("started"), group.driver().expect("started"));

    for pid in [mem.keeper_pid(), mem.worker_pid()] {
        assert_eq!(errno(world.put(pid, &group)), libc::EOPNOTSUPP, "{pid} is never parked");
        assert_eq!(errno(put(&world, pid, &pool)), libc::EOPNOTSUPP, "{pid}");
    }
    for pid in [sched.keeper_pid(), sched.worker_pid()] {
        assert_eq!(errno(put(&world, pid, &pool)), libc::EOPNOTSUPP, "{pid}");
    }
    world.host.add(20, 0);
    world.host.change(20, |process| process.is_kernel_thread = true);
    assert_eq!(errno(put(&world, 20, &pool)), libc::EOPNOTSUPP);
    assert_eq!(errno(put(&world, 77, &pool)), libc::ESRCH);
}

#[test]
fn users_have_their_own_pools_and_processes_only() {
    let world = World::new();
    let (alices, roots) = (world.pool(&user(1000), "alices"), world.pool(&ROOT, "roots"));
    world.host.add(10, 1000);
    world.host.add(11, 1001);
    let go = |uid, pid, to| errno(world.pools.move_process(&user(uid), pid, GroupId::HOST, to));

    assert_eq!(go(1000, 11, alices.id), libc::EPERM);
    assert_eq!(go(1000, 10, roots.id), libc::EPERM);
    assert_eq!(go(1000, 10, alices.id), 0);
    assert_eq!(errno(world.pools.set_max(&user(1001), &alices, Some(1 << 30))), libc::EPERM);
    assert_eq!(errno(world.pools.reclaim(&user(1001), &alices, 4096)), libc::EPERM);
    assert_eq!(errno(world.pools.remove(&user(1001), "alices")), libc::EPERM);
}

#[test]
fn settings_reach_the_worker_and_those_that_do_not_fit_change_nothing() {
    let world = World::new();
    let pool = world.pool(&ROOT, "web");
    let worker = world.mem_worker(&pool);
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().canonicalize().expect("a path");
    let tiers = || vec![Tier::Lz4 { size: 16 << 20 }, Tier::File { size: 1 << 30, dir: dir.clone() }];

    assert_eq!(world.pools.set_max(&ROOT, &pool, Some(64 << 20)), Ok(()));
    assert_eq!(world.pools.set_swap_max(&ROOT, &pool, Some(0)), Ok(()));
    assert_eq!(world.pools.set_tiers(&ROOT, &pool, tiers()), Ok(()));
    let set = worker.config();
    assert_eq!((set.max, set.swap_max, set.tiers.clone()), (Some(64 << 20), Some(0), tiers()));

    assert_eq!(
        errno(world.pools.set_max(&ROOT, &pool, Some(16 << 20))),
        libc::EINVAL,
        "the compressed tier is in it"
    );
    let large = vec![Tier::Lz4 { size: 64 << 20 }];
    assert_eq!(errno(world.pools.set_tiers(&ROOT, &pool, large)), libc::EINVAL);
    let nowhere = vec![Tier::File { size: 1 << 30, dir: dir.join("none") }];
    assert_eq!(errno(world.pools.set_tiers(&ROOT, &pool, nowhere)), libc::ENOENT);
    assert_eq!((worker.config(), pool.config()), (set.clone(), set));
}

#[test]
fn reclaim_of_more_than_there_is_says_so() {
    let world = World::new();
    let pool = world.pool(&ROOT, "web");
    world.mem_worker(&pool).inside(|inside| inside.extra.evictable = 8192);

    assert_eq!(world.pools.reclaim(&ROOT, &pool, 4096), Ok(()));
    assert_eq!(errno(world.pools.reclaim(&ROOT, &pool, 8192)), libc::EAGAIN);
    assert_eq!(world.mem_worker(&pool).inside(|inside| inside.extra.reclaimed), 8192);
}

#[test]
fn what_a_worker_reports_is_told_and_followed() {
    let world = World::new();
    let pool = world.pool(&user(1000), "web");
    let events = world.pools.journal().open_events(1000);
    world.host.add(10, 1000);
    put(&world, 10, &pool).expect("moved");
    world.host.add_child(11, 1000, 10);
    let worker = world.mem_worker(&pool);

    worker.report(Event::Forked { parent: 10, child: 11 });
    eventually(|| at(&world, 11) == Some(pool.id));
    worker.report(Event::OomKill { pid: 11, resident: 5, reason: "no swap".into() });
    worker.report(Event::Exited { pid: 11 });

    eventually_told(&events, &["event=oom_kill", "pid=11", "resident=5", "reason=no\\x20swap"]);
    eventually(|| at(&world, 11) == Some(GroupId::HOST));
}

#[test]
fn worker_that_dies_is_found_again_with_its_members() {
    let world = World::new();
    let pool = world.pool(&ROOT, "web");
    world.host.add(10, 1000);
    put(&world, 10, &pool).expect("moved");
    let events = world.pools.journal().open_events(0);

    world.mem_worker(&pool).die();

    eventually_told(&events, &["event=reconnected", "group=web", "members=1", "in=mem-groups"]);
    assert_eq!(at(&world, 10), Some(pool.id));
}

#[test]
fn pools_of_an_earlier_daemon_are_adopted_as_such() {
    let world = World::new();
    let pool = world.pool(&user(1000), "web");
    world.group(&ROOT, "web");
    world.pools.set_max(&user(1000), &pool, Some(64 << 20)).expect("set");
    let config = serde_json::to_vec(&pool.config()).expect("text");
    std::fs::write(pool.dir.join("config.json"), config).expect("kept");
    let state = world.controller.state();
    assert_eq!((state.dirs().len(), state.mem().expect("a directory").dirs()), (1, vec![pool.dir.clone()]));

    let next = World::new();
    let root = tempfile::tempdir().expect("a directory");
    let copy =
        StateRoot::open(&root.path().join("state")).expect("free").mem().expect("a directory").new_dir();
    std::fs::create_dir(&copy).expect("a directory");
    for entry in std::fs::read_dir(&pool.dir).expect("listed").flatten() {
        std::fs::copy(entry.path(), copy.join(entry.file_name())).expect("copied");
    }
    let pools = Pools::new(crate::groups::Setup {
        host: next.host.clone(),
        launcher: Arc::new(super::fake::FakeMemLauncher::default()),
        journal: next.pools.journal().clone(),
        notices: next.pools.notices().clone(),
        state: StateRoot::open(&root.path().join("state")).expect("free").mem().expect("a directory"),
        template: Default::default(),
    });
    pools.adopt_all();

    let adopted = pools.group_named("web").expect("adopted");
    assert_eq!((adopted.owner().0, adopted.config().max), (1000, Some(64 << 20)));
}

#[test]
fn watched_file_tells_of_a_change_until_it_is_read_and_of_a_trigger_once() {
    let world = World::new();
    let pool = world.pool(&ROOT, "web");
    let worker = world.mem_worker(&pool);
    let (notices, delivered) = Notices::new();
    let watches = Watches::new(notices);
    let (changes, trigger) =
        (Watch::new(&watches, &pool, Topic::Events), Watch::new(&watches, &pool, Topic::Pressure));
    assert_eq!(changes.poll(), Urgency::None);
    assert_eq!(trigger.write(&ROOT, b"some 1000 500000"), Ok(()));
    assert_eq!(errno(trigger.write(&ROOT, b"some 1000 500000")), libc::EBUSY);
    assert_eq!(errno(changes.write(&ROOT, b"some 1000 500000")), libc::EPERM);
    // It has to have looked once before.
    std::thread::sleep(Duration::from_millis(120));

    let some = Stall { total_usec: 2_000, ..Stall::default() };
    worker.inside(|inside| inside.stat = MemStat { max_events: 1, some, ..MemStat::default() });

    assert_eq!(delivered.recv_timeout(Duration::from_secs(5)), Ok(Notice::Streams));
    eventually(|| changes.is_due() && trigger.is_due());
    assert_eq!((changes.poll(), changes.poll()), (Urgency::Changed, Urgency::Changed));
    changes.was_read();
    assert_eq!(changes.poll(), Urgency::None);
    assert_eq!((trigger.poll(), trigger.poll()), (Urgency::Event, Urgency::None));
}
