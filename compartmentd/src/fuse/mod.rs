//! The tree as a file system: FUSE requests become calls of a [`Room`](crate::tree::Room), refusals become errnos and lines of
//! `error_log`.
//!
//! - [`View`]: the file system; its requests are in `filesystem`.
//! - `handles`: open files; streams whose readers wait.
//! - `notifier`: tells the kernel what to forget.
//! - `abort`: the end of the connection if we are killed meanwhile.
//! - [`Mounted`]: a mount with its threads.
//!
//! fuser refuses FUSE_INTERRUPT, so a killed reader of a stream would stay for ever: waiting reads are answered with EINTR every 200 ms
//! (`handles::TICK`), which `cat` and every other program that retries does not notice.

mod abort;
mod filesystem;
mod handles;
mod mount;
mod notifier;
mod view;

pub use mount::Mounted;
pub use view::View;
