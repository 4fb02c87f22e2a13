//! `fork` with the connection open: the child's copies do nothing to the parent's table.
#![allow(unsafe_code)]

use std::time::Duration;

use guest_task::{Options, Registry, Status, TaskSpec, TaskState};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

#[test]
fn child_does_not_touch_the_parents_table() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = Registry::connect(Options::default().socket(dir.path().join("none"))).expect("a registry");
    let (kept, mut inherited) =
        (registry.publish(TaskSpec::new("kept")), registry.publish(TaskSpec::new("inherited")));
    let slot = inherited.id().slot();

    // SAFETY: the child allocates no memory that a lock of another thread could hold back: it ends by `_exit` after calls of the crate only.
    match unsafe { fork() }.expect("a child") {
        ForkResult::Child => {
            let own = registry.publish(TaskSpec::new("child's"));
            inherited.set_state(TaskState::Stopped);
            inherited.set_texts("child", "", "");
            let is_quiet = !own.is_shown() && !inherited.is_shown() && registry.next_event().is_none();
            drop((own, inherited, registry));

            // SAFETY: ends the process without running what it shares with its parent.
            unsafe { nix::libc::_exit(if is_quiet { 0 } else { 1 }) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }

    assert!(kept.is_shown() && inherited.is_shown());
    assert_eq!(registry.wait_answer(Duration::ZERO), Status::Absent);
    drop(inherited);
    assert_eq!(registry.publish(TaskSpec::new("next")).id().slot(), slot, "the child has not freed the slot");
}

#[test]
fn child_connects_by_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("none");
    let registry = Registry::connect(Options::default().socket(&path)).expect("a registry");
    let task = registry.publish(TaskSpec::new("parent's"));

    // SAFETY: the C library makes memory usable again in the child; it ends by `_exit`.
    match unsafe { fork() }.expect("a child") {
        ForkResult::Child => {
            let own = Registry::connect(Options::default().socket(&path)).expect("a registry");
            let is_shown = own.publish(TaskSpec::new("child's")).is_shown() && !task.is_shown();
            // SAFETY: ends the process without running what it shares with its parent.
            unsafe { nix::libc::_exit(if is_shown { 0 } else { 1 }) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }

    assert!(task.is_shown());
}
