//! One module a command.

pub(crate) mod check;
pub(crate) mod explain;
pub(crate) mod fields;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod test;
