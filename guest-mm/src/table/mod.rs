//! Page tables: what an entry says, and the radix trees the entries are in.

mod node;
mod pte;

pub(crate) use node::Tables;
pub(crate) use pte::{Pte, State};
