//! What the core promises, one rule at a time.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use guest_mm::sim::entropy::Entropy;
use guest_mm::{
    Access, Config, Load, Memory as _, MoveOutcome, Nanos, Outcome, Placement, Resolution, Source, SpaceId,
    Target, TierConfig, TierId, TierStore, VecMemory, Vm, VmError, Vpn, WriteOutcome,
};

const A: SpaceId = SpaceId(1);
const B: SpaceId = SpaceId(40_000);
const NOW: Nanos = Nanos(0);

fn file(slots: u32) -> TierConfig {
    TierConfig { id: TierId(1), store: TierStore::File { slots } }
}

fn pool(bytes: u64) -> TierConfig {
    TierConfig { id: TierId(0), store: TierStore::Compressed { bytes } }
}

fn vm(limit: u64, tiers: Vec<TierConfig>) -> Vm<VecMemory> {
    let config = Config { limit_pages: Some(limit), tiers, fill_max: 1, ..Config::default() };
    let mut vm = Vm::new(VecMemory::new(), config).unwrap();
    vm.add_space(A).unwrap();
    vm
}

fn touch(vm: &mut Vm<VecMemory>, space: SpaceId, page: u64, access: Access) -> (Resolution, Vec<Load>) {
    let mut loads = Vec::new();
    let resolution = vm.fault(space, Vpn(page), access, NOW, &mut loads).unwrap();
    for load in &loads {
        vm.installed(load.frame, Outcome::Installed).unwrap();
    }
    vm.check_invariants().unwrap();
    (resolution, loads)
}

/// Evicts up to `nr` pages all the way; gives where they went.
fn evict(vm: &mut Vm<VecMemory>, nr: u64) -> Vec<Target> {
    let (mut victims, mut writes) = (Vec::new(), Vec::new());
    vm.select(nr, &mut victims);
    for victim in victims {
        vm.moved(victim.frame, MoveOutcome::Staged).unwrap();
    }
    vm.unstage_plan(u64::MAX, NOW, &mut writes);
    let mut targets = Vec::new();
    for write in writes {
        let is_placed = match write.target {
            Target::Compress { .. } => vm.compressed(write.stage, 1000).unwrap() != Placement::Elsewhere,
            _ => true,
        };
        if is_placed {
            vm.written(write.stage, WriteOutcome::Done).unwrap();
            targets.push(write.target);
        }
    }
    vm.take_released(&mut Vec::new());
    vm.check_invariants().unwrap();
    targets
}

#[test]
fn read_of_untouched_zero_page_is_dropped_without_a_write() {
    let mut vm = vm(100, vec![file(100)]);
    let (resolution, loads) = touch(&mut vm, A, 5, Access::Read);
    assert_eq!(resolution, Resolution::Zero { first: Vpn(5), nr: 1 });
    assert!(loads[0].protect);
    assert_eq!(evict(&mut vm, 1), []);
    assert_eq!((vm.stats().anon, vm.stats().swapped), (0, 0));
}

#[test]
fn sequential_pages_get_sequential_slots() {
    let mut vm = vm(200, vec![file(1000)]);
    for page in (0..100).rev() {
        touch(&mut vm, A, page, Access::Write);
    }
    let indexes: Vec<u32> = evict(&mut vm, 100)
        .into_iter()
        .map(|target| match target {
            Target::File { index, .. } => index,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(indexes, (0..100).collect::<Vec<_>>());
}

#[test]
fn clean_page_needs_no_second_write_and_a_dirty_one_does() {
    let mut vm = vm(100, vec![file(100)]);
    touch(&mut vm, A, 5, Access::Write);
    assert_eq!(evict(&mut vm, 1).len(), 1);
    let (resolution, loads) = touch(&mut vm, A, 5, Access::Read);
    assert_eq!(resolution, Resolution::Load);
    assert!(loads[0].protect && matches!(loads[0].source, Source::File { .. }));
    assert_eq!(evict(&mut vm, 1), [Target::Discard]);
    touch(&mut vm, A, 5, Access::Read);
    assert_eq!(touch(&mut vm, A, 5, Access::WriteProtected).0, Resolution::Unprotect);
    assert_eq!(vm.stats().swapped, 0, "a dirty page keeps no slot");
    assert!(matches!(evict(&mut vm, 1)[..], [Target::File { .. }]));
}

#[test]
fn staged_page_is_rescued_without_a_slot() {
    let mut vm = vm(100, vec![file(100)]);
    touch(&mut vm, A, 5, Access::Write);
    let mut victims = Vec::new();
    vm.select(1, &mut victims);
    assert_eq!(touch(&mut vm, A, 5, Access::Write).0, Resolution::Wait);
    vm.moved(victims[0].frame, MoveOutcome::Staged).unwrap();
    let (resolution, loads) = touch(&mut vm, A, 5, Access::Write);
    assert!(matches!(resolution, Resolution::Rescue { copy: false, .. }), "{resolution:?}");
    assert_eq!(loads[0].source, Source::Stage(victims[0].stage.unwrap()));
    assert_eq!((vm.stats().rescued, vm.stats().pswpout), (1, 0));
}

#[test]
fn fork_charges_once_and_a_write_charges_the_writer() {
    let mut vm = vm(100, vec![file(100)]);
    for page in 0..10 {
        touch(&mut vm, A, page, Access::Write);
    }
    vm.fork(A, B).unwrap();
    assert_eq!(vm.charged(), 10);
    assert_eq!(touch(&mut vm, B, 3, Access::WriteProtected).0, Resolution::Unshare);
    assert_eq!(vm.charged(), 11);
    assert_eq!(touch(&mut vm, A, 3, Access::WriteProtected).0, Resolution::Unprotect);
    vm.remove_space(A).unwrap();
    assert_eq!(vm.charged(), 10);
    vm.remove_space(B).unwrap();
    assert_eq!(vm.charged(), 0);
}

#[test]
fn entries_move_into_the_node_that_others_have_just_left() {
    let mut vm = vm(100, vec![file(100)]);
    for page in [600, 1030] {
        touch(&mut vm, A, page, Access::Write);
    }

    vm.remap(A, Vpn(600), Vpn(88), 512).unwrap();

    vm.check_invariants().unwrap();
    let mut residents = Vec::new();
    vm.residents(A, Vpn(0), 10, &mut residents).unwrap();
    assert_eq!(residents.iter().map(|page| page.vpn).collect::<Vec<_>>(), [Vpn(88), Vpn(518)]);
}

#[test]
fn pages_shared_with_an_unreachable_space_stay() {
    let mut vm = vm(100, vec![file(100)]);
    touch(&mut vm, A, 1, Access::Write);
    vm.fork(A, B).unwrap();
    touch(&mut vm, A, 2, Access::Write);
    vm.set_reachable(B, false).unwrap();

    let mut victims = Vec::new();
    vm.select(10, &mut victims);
    assert_eq!(victims.iter().map(|v| (v.space, v.vpn)).collect::<Vec<_>>(), [(A, Vpn(2))]);
    vm.moved(victims[0].frame, MoveOutcome::Busy).unwrap();

    vm.set_reachable(B, true).unwrap();
    assert_eq!(evict(&mut vm, 10).len(), 3);
}

#[test]
fn swapped_pages_share_their_slot_after_a_fork() {
    let mut vm = vm(100, vec![file(100)]);
    touch(&mut vm, A, 1, Access::Write);
    evict(&mut vm, 1);
    vm.fork(A, B).unwrap();
    touch(&mut vm, A, 1, Access::Write);
    assert_eq!(vm.stats().swapped, 1, "the child still needs it");
    touch(&mut vm, B, 1, Access::Write);
    assert_eq!(vm.stats().swapped, 0);
}

#[test]
fn full_pool_asks_for_frames_and_without_swap_is_out_of_memory() {
    let mut vm1 = vm(32, vec![file(100)]);
    let mut vm2 = vm(32, vec![]);
    for vm in [&mut vm1, &mut vm2] {
        for page in 0..31 {
            touch(vm, A, page, Access::Write);
        }
    }
    assert!(matches!(touch(&mut vm1, A, 50, Access::Write).0, Resolution::NeedFrames(_)));
    touch(&mut vm2, A, 50, Access::Write);
    assert_eq!(touch(&mut vm2, A, 51, Access::Write).0, Resolution::OutOfMemory);
}

#[test]
fn lower_limit_shows_as_excess() {
    let mut vm = vm(100, vec![file(100)]);
    for page in 0..50 {
        touch(&mut vm, A, page, Access::Write);
    }
    let config = Config { limit_pages: Some(20), ..vm.config().clone() };
    vm.configure(config).unwrap();
    assert_eq!(vm.excess(), 30);
    assert!(vm.reclaim_target() >= 30);
    evict(&mut vm, 40);
    assert_eq!(vm.excess(), 0);
}

#[test]
fn full_compressed_tier_writes_back_its_oldest() {
    let mut vm = vm(200, vec![pool(8 * 4096), file(1000)]);
    for page in 0..60 {
        touch(&mut vm, A, page, Access::Write);
    }
    evict(&mut vm, 60);
    assert!(vm.stats().zswapped >= 28, "{:?}", vm.stats());
    let mut plan = Vec::new();
    vm.writeback_plan(4, &mut plan);
    assert!(!plan.is_empty());
    for back in &plan {
        vm.written_back(back.from, WriteOutcome::Done).unwrap();
    }
    vm.check_invariants().unwrap();
    let moved = plan[0].from;
    let (_, loads) = touch(&mut vm, A, 0, Access::Read);
    assert_eq!(loads[0].source, Source::File { tier: plan[0].tier, index: plan[0].index }, "{moved:?}");
}

#[test]
fn removed_tier_drains() {
    let other = TierConfig { id: TierId(2), store: TierStore::File { slots: 100 } };
    let mut vm = vm(100, vec![file(100)]);
    for page in 0..10 {
        touch(&mut vm, A, page, Access::Write);
    }
    evict(&mut vm, 10);
    let config = Config { tiers: vec![other], ..vm.config().clone() };
    vm.configure(config).unwrap();
    let mut plan = Vec::new();
    vm.writeback_plan(100, &mut plan);
    assert_eq!(plan.len(), 10);
    for back in plan {
        vm.written_back(back.from, WriteOutcome::Done).unwrap();
    }
    assert!(vm.is_drained(TierId(1)));
    let (_, loads) = touch(&mut vm, A, 4, Access::Read);
    assert!(matches!(loads[0].source, Source::File { tier: TierId(2), .. }));
}

#[test]
fn sequential_faults_read_ahead() {
    let mut vm = vm(400, vec![file(1000)]);
    for page in 0..128 {
        touch(&mut vm, A, page, Access::Write);
    }
    evict(&mut vm, 128);
    let mut sizes = Vec::new();
    let mut page = 0;
    while page < 63 {
        let (_, loads) = touch(&mut vm, A, page, Access::Read);
        sizes.push(loads.len());
        page += loads.len() as u64;
    }
    assert_eq!(sizes, [1, 2, 4, 8, 16, 32]);
    assert!(vm.stats().readahead_hit > 20);
}

#[test]
fn bad_input_is_refused() {
    let mut vm = vm(100, vec![]);
    let mut loads = Vec::new();
    let beyond = Vpn(Vpn::LIMIT);
    assert_eq!(vm.fault(B, Vpn(0), Access::Read, NOW, &mut loads), Err(VmError::NoSuchSpace(B)));
    assert_eq!(vm.fault(A, beyond, Access::Read, NOW, &mut loads), Err(VmError::BadRange(beyond)));
    assert_eq!(vm.unmap(A, Vpn(5), u64::MAX), Err(VmError::BadRange(Vpn(5))));
    assert_eq!(vm.remap(A, Vpn(5), Vpn(8), 4), Err(VmError::BadRange(Vpn(5))));
    assert_eq!(vm.add_space(A), Err(VmError::SpaceExists(A)));
    assert!(vm.installed(guest_mm::FrameId(9), Outcome::Installed).is_err());
    assert!(vm.moved(guest_mm::FrameId(9), MoveOutcome::Gone).is_err());
    assert!(vm.written(guest_mm::StageId(9), WriteOutcome::Done).is_err());
    let twice = Config { tiers: vec![file(1), file(2)], ..Config::default() };
    assert_eq!(vm.configure(twice), Err(VmError::BadTier(TierId(1))));
    vm.check_invariants().unwrap();
}

#[test]
fn damaged_store_is_refused_or_opened_but_never_a_panic() {
    let mut vm = vm(100, vec![pool(64 << 10), file(100)]);
    for page in 0..60 {
        touch(&mut vm, A, page * 37, Access::Write);
    }
    evict(&mut vm, 40);
    vm.fork(A, B).unwrap();
    let config = vm.config().clone();
    let memory = vm.into_memory();
    let words: Vec<u64> =
        (0..memory.len()).map(|at| memory.word(at).load(std::sync::atomic::Ordering::Relaxed)).collect();
    let used: Vec<usize> = (0..words.len()).filter(|at| words[*at] != 0).collect();
    let mut entropy = Entropy::from_seed(3);
    for _ in 0..300 {
        let mut damaged = words.clone();
        let at = used[entropy.below(used.len() as u64) as usize];
        damaged[at] ^= 1 << entropy.below(40);
        if let Ok(vm) = Vm::recover(VecMemory::from_words(damaged), config.clone()) {
            vm.check_invariants().unwrap();
        }
    }
}
