//! The C interface of `guest-task`; what it promises is in `include/guest_task.h`.

pub mod sys;
