//! The driver: one worker process per mem_group pages the group's members by `userfaultfd`.

mod attach;
pub mod client;
mod held;
pub mod keeper;
mod maps;
pub mod proto;
mod sensor;
mod store;
pub mod table;
mod worker;
mod writer;
