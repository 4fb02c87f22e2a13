//! The room with made-up processes and workers.

use std::ffi::OsStr;

use super::{GroupFile, SchedFiles, SchedGroups, TaskFile};
use crate::groups::tests::World;
use crate::groups::{Caller, GroupId};
use crate::tree::room::{Kind, Room};
use crate::tree::rooms::groups::{Files, inode};

type Node = crate::tree::rooms::groups::Node<GroupFile, TaskFile>;

const ROOT: Caller = Caller::DAEMON;

fn names(room: &SchedGroups, dir: u64) -> Vec<String> {
    room.list(dir).expect("a directory").into_iter().map(|entry| entry.name).collect()
}

fn find(room: &SchedGroups, path: &str) -> Option<u64> {
    path.split('/').try_fold(Node::Groups.encode(), |dir, name| {
        room.lookup(dir, OsStr::new(name)).ok().map(|inode| inode.local())
    })
}

#[test]
fn every_entry_listed_is_found_with_the_same_number() {
    let world = World::new();
    let group = world.group(&ROOT, "web");
    world.host.add(10, 1000);
    world.host.add(11, 1000);
    world.put(10, &group).expect("moved");
    let room = SchedGroups::new(world.controller.clone(), SchedFiles);

    for dir in ["0", "web", "web/10", "0/11"].map(|path| find(&room, path).expect(path)) {
        for entry in room.list(dir).expect("a directory") {
            assert_eq!(room.lookup(dir, OsStr::new(&entry.name)), Ok(entry.inode), "{}", entry.name);
            let attr = room.stat(entry.inode.local()).expect("is there");
            assert_eq!(attr.kind, entry.kind);
        }
    }
    assert_eq!(names(&room, Node::Groups.encode()), ["0", "web"]);
    let own = names(&room, find(&room, "web").expect("a group"));
    assert_eq!(own.len(), GroupFile::ALL.len() + 1);
    assert_eq!(names(&room, find(&room, "web/10").expect("a member")).len(), TaskFile::ALL.len());
    assert!(
        find(&room, "0/10").is_none() && find(&room, "web/11").is_none() && find(&room, "0/vcpus").is_none()
    );
}

#[test]
fn entry_keeps_its_number_when_moved() {
    let world = World::new();
    let group = world.group(&ROOT, "web");
    world.host.add(10, 1000);
    let room = SchedGroups::new(world.controller.clone(), SchedFiles);
    let before = find(&room, "0/10");

    room.rename(&ROOT, Node::Group(GroupId::HOST).encode(), Node::Group(group.id).encode(), OsStr::new("10"))
        .expect("moved");

    assert_eq!(find(&room, "web/10"), before);
    assert_eq!(room.path(before.expect("was there")), "sched-groups/web/10");
}

#[test]
fn owners_and_modes_are_those_of_the_documentation() {
    let world = World::new();
    let alice = Caller { tid: 0, uid: 1000, gid: 1000 };
    let group = world.group(&alice, "alices");
    world.host.add(10, 1000);
    let room = SchedGroups::new(world.controller.clone(), SchedFiles);
    let stat = |path: &str| room.stat(find(&room, path).expect(path)).expect(path);

    assert_eq!((stat("0").mode, stat("0").uid), (0o1777, 0));
    assert_eq!(
        (stat("alices").mode, stat("alices").uid, stat("alices").kind),
        (0o755, 1000, Kind::Directory)
    );
    assert_eq!((stat("alices/cpu.max").mode, stat("alices/cpu.max").uid), (0o644, 1000));
    assert_eq!(stat("alices/cpu.stat").mode, 0o444);
    assert_eq!((stat("0/10").uid, stat("0/10/signal").mode, stat("0/10/policy").mode), (1000, 0o222, 0o444));
    world.put(10, &group).expect("moved");
    assert_eq!(stat("alices/10/policy").mode, 0o644);
    // The worker stands for the group, so its entry is the group owner's.
    let worker = group.representative().expect("a worker");
    assert_eq!(stat(&format!("0/{worker}")).uid, 1000);
}

#[test]
fn what_is_read_can_be_written_back() {
    let world = World::new();
    let group = world.group(&ROOT, "web");
    world.host.add(10, 0);
    world.put(10, &group).expect("moved");
    let room = SchedGroups::new(world.controller.clone(), SchedFiles);
    let files = ["scheduler", "slice_usec", "vcpus", "nice", "cpu.max", "10/nice", "10/policy"];

    for file in files {
        let node = find(&room, &format!("web/{file}")).expect(file);
        let text = room.read(node, &ROOT).expect(file);
        assert_eq!(room.write(node, &ROOT, text.as_bytes()), Ok(()), "{file}");
        assert_eq!(room.read(node, &ROOT), Ok(text));
    }
    for file in ["representative", "cpu.stat", "cpu.promise", "mode"] {
        let node = find(&room, &format!("web/{file}")).expect(file);
        assert_eq!(room.write(node, &ROOT, b"1").map_err(|e| e.errno()), Err(libc::EPERM), "{file}");
    }
    assert_eq!(inode::<SchedFiles>(Node::Group(group.id)).local(), find(&room, "web").expect("a group"));
}
