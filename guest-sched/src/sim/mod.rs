//! Driving a policy without a host: for tests, fuzzers and experiments.
//!
//! * [`ops`]: operation sequences from bytes, legal and illegal ones.
//! * [`world`]: tasks that run and wait on virtual time, driven as a host driver would; [`rng`]: its
//!   repeatable randomness.
//! * [`scenarios`]: the known weak spots of the O(1) scheduler.

pub mod ops;
pub mod rng;
pub mod scenarios;
pub mod world;
