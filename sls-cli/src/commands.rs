//! One module a command.

pub(crate) mod check;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod fields;
pub(crate) mod guards;
pub(crate) mod quarantine;
pub(crate) mod rearm;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod resume;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod test;
pub(crate) mod thaw;
pub(crate) mod unpin;
