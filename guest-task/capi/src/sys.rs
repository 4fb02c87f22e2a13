//! The functions of `guest_task.h`, one to one.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use guest_task::{Accepts, Action, Options, Registry, Status, Task, TaskId, TaskSpec, TaskState};

/// `struct gt_spec`.
#[repr(C)]
pub struct Spec {
    name: *const c_char,
    cmdline: *const c_char,
    owner: *const c_char,
    parent: u64,
    signals: u64,
    start_ns: u64,
    cpu_ns: u64,
    memory_bytes: u64,
    parent_pid: i32,
    state: i32,
    nice: i32,
    takes_nice: i32,
}

/// `struct gt_event`.
#[repr(C)]
pub struct Event {
    task: u64,
    kind: i32,
    value: i32,
}

const KIND_SIGNAL: i32 = 1;
const KIND_NICE: i32 = 2;

fn state(number: i32) -> TaskState {
    match number {
        2 => TaskState::Sleeping,
        3 => TaskState::Waiting,
        4 => TaskState::Queued,
        5 => TaskState::Stopped,
        _ => TaskState::Running,
    }
}

fn nice(number: i32) -> i8 {
    number.clamp(-20, 19) as i8
}

/// Gives the text at a pointer; none for NULL. What is no UTF-8 is replaced, which takes memory; the rest is not copied.
///
/// # Safety
/// `text` is NULL or a string that lives for `'a`.
unsafe fn text<'a>(text: *const c_char) -> std::borrow::Cow<'a, str> {
    if text.is_null() {
        return "".into();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy()
}

/// See `guest_task.h`.
///
/// # Safety
/// `socket` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gt_connect(socket: *const c_char) -> *mut Registry {
    let mut options = Options::default();
    if !socket.is_null() {
        // SAFETY: not NULL, so a string.
        let path = unsafe { CStr::from_ptr(socket) };
        options = options.socket(OsStr::from_bytes(path.to_bytes()));
    }
    match Registry::connect(options) {
        Ok(registry) => Box::into_raw(Box::new(registry)),
        Err(e) => {
            let source = std::error::Error::source(&e).and_then(|e| e.downcast_ref::<std::io::Error>());
            let errno = source.and_then(std::io::Error::raw_os_error).unwrap_or(nix::libc::ENOMEM);
            nix::errno::Errno::from_raw(errno).set();
            std::ptr::null_mut()
        }
    }
}

/// See `guest_task.h`.
///
/// # Safety
/// `registry` came from [`gt_connect`] and is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gt_wait(registry: *const Registry, timeout_ms: c_int) -> c_int {
    // SAFETY: the caller's promise.
    let registry = unsafe { &*registry };
    match registry.wait_answer(Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0))) {
        Status::Connected => 1,
        Status::Absent => 0,
        Status::Refused(_) => -1,
    }
}

/// See `guest_task.h`.
///
/// # Safety
/// `registry` is NULL, or came from [`gt_connect`] and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gt_close(registry: *mut Registry) {
    if !registry.is_null() {
        // SAFETY: made by `Box::into_raw`, and given back once.
        drop(unsafe { Box::from_raw(registry) });
    }
}

/// See `guest_task.h`.
///
/// # Safety
/// `registry` came from [`gt_connect`] and is not closed; `spec` points to a `gt_spec` whose texts are NULL or strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gt_publish(registry: *const Registry, spec: *const Spec) -> *mut Task {
    // SAFETY: the caller's promise.
    let (registry, given) = unsafe { (&*registry, &*spec) };
    // SAFETY: likewise.
    let (name, cmdline, owner) = unsafe { (text(given.name), text(given.cmdline), text(given.owner)) };
    let mut spec = TaskSpec::new(&name)
        .cmdline(&cmdline)
        .owner(&owner)
        .state(state(given.state))
        .nice(nice(given.nice))
        .accepts(Accepts::from_mask(given.signals, given.takes_nice != 0))
        .cpu_time_ns(given.cpu_ns)
        .memory_bytes(given.memory_bytes);
    if given.parent != 0 {
        spec = spec.parent(TaskId::from_word(given.parent));
    } else if given.parent_pid > 0 {
        spec = spec.parent_pid(given.parent_pid);
    }
    if given.start_ns != 0 {
        spec = spec.start_ns(given.start_ns);
    }
    Box::into_raw(Box::new(registry.publish(spec)))
}

/// See `guest_task.h`.
///
/// # Safety
/// `task` is NULL, or came from [`gt_publish`] and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gt_retire(task: *mut Task) {
    if !task.is_null() {
        // SAFETY: made by `Box::into_raw`, and given back once.
        drop(unsafe { Box::from_raw(task) });
    }
}

/// See `guest_task.h`.
///
/// # Safety
/// `task` came from [`gt_publish`] and is not retired.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gt_id(task: *const Task) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { &*task }.id().word()
}

/// See `guest_task.h`.
///
/// # Safety
/// As for [`gt_id`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gt_set_state(task: *const Task, number: c_int) {
    // SAFETY: the caller's promise.
    unsafe { &*task }.set_state(state(number));
}

/// See `guest_task.h`.
///
/// # Safety
/// As for [`gt_id`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gt_set_nice(task: *const Task, number: c_int) {
    // SAFETY: the caller's promise.
    unsafe { &*task }.set_nice(nice(number));
}

/// See `guest_task.h`.
///
/// # Safety
/// As for [`gt_id`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gt_set_cpu_time(task: *const Task, cpu_ns: u64) {
    // SAFETY: the caller's promise.
    unsafe { &*task }.set_cpu_time_ns(cpu_ns);
}

/// See `guest_task.h`.
///
/// # Safety
/// As for [`gt_id`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gt_set_memory(task: *const Task, memory_bytes: u64) {
    // SAFETY: the caller's promise.
    unsafe { &*task }.set_memory_bytes(memory_bytes);
}

/// See `guest_task.h`.
///
/// # Safety
/// As for [`gt_id`], no other thread uses the task meanwhile, and the texts are NULL or strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gt_set_texts(
    task: *mut Task,
    name: *const c_char,
    cmdline: *const c_char,
    owner: *const c_char,
) {
    // SAFETY: the caller's promise.
    let (name, cmdline, owner) = unsafe { (text(name), text(cmdline), text(owner)) };
    // SAFETY: likewise.
    unsafe { &mut *task }.set_texts(&name, &owner, &cmdline);
}

/// See `guest_task.h`.
///
/// # Safety
/// `registry` came from [`gt_connect`] and is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gt_event_fd(registry: *const Registry) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { &*registry }.event_fd().as_raw_fd()
}

/// See `guest_task.h`.
///
/// # Safety
/// `registry` came from [`gt_connect`] and is not closed; `event` points to room for a `gt_event`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gt_next_event(registry: *const Registry, event: *mut Event) -> c_int {
    // SAFETY: the caller's promise.
    let Some(got) = unsafe { &*registry }.next_event() else { return 0 };
    let (kind, value) = match got.action {
        Action::Signal(number) => (KIND_SIGNAL, number),
        Action::Nice(nice) => (KIND_NICE, nice.into()),
    };
    // SAFETY: likewise; what was there needs no dropping.
    unsafe { event.write(Event { task: got.task.word(), kind, value }) };
    1
}
