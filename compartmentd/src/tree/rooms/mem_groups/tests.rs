//! The room with made-up processes and workers.

use std::ffi::OsStr;

use guest_mm::uffd::table::MemStat;

use super::{GroupFile, MemFiles, MemGroups, TaskFile};
use crate::groups::Caller;
use crate::groups::tests::{World, user};
use crate::tree::room::{Opened, Room};
use crate::tree::rooms::groups::Files;

type Node = crate::tree::rooms::groups::Node<GroupFile, TaskFile>;

const ROOT: Caller = Caller::DAEMON;

fn room(world: &World) -> MemGroups {
    MemGroups::new(world.pools.clone(), MemFiles::new(&world.pools))
}

fn find(room: &MemGroups, path: &str) -> Option<u64> {
    path.split('/').try_fold(Node::Groups.encode(), |dir, name| {
        room.lookup(dir, OsStr::new(name)).ok().map(|inode| inode.local())
    })
}

fn read(room: &MemGroups, path: &str) -> Result<String, i32> {
    room.read(find(room, path).expect(path), &ROOT).map_err(|e| e.errno())
}

fn write(room: &MemGroups, caller: &Caller, path: &str, value: &str) -> i32 {
    room.write(find(room, path).expect(path), caller, value.as_bytes()).map_or_else(|e| e.errno(), |()| 0)
}

#[test]
fn every_entry_listed_is_found_with_the_same_number() {
    let world = World::new();
    let pool = world.pool(&ROOT, "web");
    world.host.add(10, 1000);
    world.pools.place(10, pool.id).expect("moved");
    let room = room(&world);

    for dir in ["web", "web/10"].map(|path| find(&room, path).expect(path)) {
        for entry in room.list(dir).expect("a directory") {
            assert_eq!(room.lookup(dir, OsStr::new(&entry.name)), Ok(entry.inode), "{}", entry.name);
            assert_eq!(room.stat(entry.inode.local()).expect("is there").kind, entry.kind);
        }
    }
    assert_eq!(
        room.list(find(&room, "web").expect("a group")).expect("listed").len(),
        GroupFile::ALL.len() + 1
    );
    assert_eq!(room.path(find(&room, "web/10/unmanaged").expect("a file")), "mem-groups/web/10/unmanaged");
    assert!(find(&room, "0/10").is_none());
}

#[test]
fn what_can_be_read_can_be_written_back() {
    let world = World::new();
    world.pool(&user(1000), "web");
    let room = room(&world);

    for file in GroupFile::ALL.iter().filter(|file| file.mode() == 0o644 && **file != GroupFile::Pressure) {
        let path = format!("web/{}", file.name());
        let value = read(&room, &path).expect("a value");
        assert_eq!(write(&room, &user(1000), &path, &value), 0, "{path} {value:?}");
        assert_eq!(read(&room, &path), Ok(value));
    }
    assert_eq!(write(&room, &user(1000), "web/memory.max", "64M"), 0);
    assert_eq!(read(&room, "web/memory.max").as_deref(), Ok("67108864\n"));
    assert_eq!(write(&room, &user(1000), "web/memory.max", "99999999999G"), libc::EINVAL);
    assert_eq!(write(&room, &user(1000), "web/memory.max", "1023K"), libc::EINVAL);
    assert_eq!(write(&room, &user(1001), "web/memory.max", "64M"), libc::EPERM);
    assert_eq!(read(&room, "web/memory.max").as_deref(), Ok("67108864\n"));
    assert_eq!(write(&room, &ROOT, "web/memory.current", "1"), libc::EPERM);
    assert_eq!(read(&room, "web/memory.reclaim"), Err(libc::EPERM));
}

#[test]
fn counters_and_members_are_shown() {
    let world = World::new();
    let pool = world.pool(&ROOT, "web");
    world.host.add(10, 1000);
    world.pools.place(10, pool.id).expect("moved");
    let stat = MemStat { current: 12_288, anon: 8_192, max_events: 3, ..MemStat::default() };
    world.mem_worker(&pool).inside(|inside| inside.stat = stat);
    std::thread::sleep(std::time::Duration::from_millis(30));
    let room = room(&world);

    assert_eq!(read(&room, "web/memory.current").as_deref(), Ok("12288\n"));
    assert!(
        read(&room, "web/memory.stat")
            .is_ok_and(|text| text.contains("anon 8192\n") && text.contains("nr_members 1\n"))
    );
    assert_eq!(read(&room, "web/memory.events").as_deref(), Ok("max 3\noom 0\noom_kill 0\n"));
    assert_eq!(read(&room, "web/10/memory.current").as_deref(), Ok("12288\n"));
    assert_eq!(read(&room, "web/10/memory.swap.current").as_deref(), Ok("12288\n"));
    assert_eq!(read(&room, "web/10/unmanaged").as_deref(), Ok("1000-3000 4096 locked\n"));
    let opened = room.open(find(&room, "web/memory.pressure").expect("a file"), &ROOT);
    assert!(matches!(opened, Ok(Opened::Watched(_))));
    let worker = read(&room, "web/representative").expect("a number");
    assert_eq!(worker.trim().parse().ok(), Some(pool.driver().expect("started").worker_pid()));
}

#[test]
fn group_of_a_host_process_shows_what_the_host_has() {
    let world = World::new();
    let me = std::process::id() as i32;
    world.host.add(me, 0);
    let room = room(&world);

    let resident: u64 =
        read(&room, &format!("0/{me}/memory.current")).expect("alive").trim().parse().expect("a number");
    assert!(resident > 1 << 20);
    assert_eq!(read(&room, &format!("0/{me}/unmanaged")).as_deref(), Ok(""));
}
