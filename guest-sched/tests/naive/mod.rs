//! Models that are easy to believe, to check the policies against.

pub(crate) mod fair;
pub(crate) mod o1;
