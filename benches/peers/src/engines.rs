//! The engines, each by its documented fast path.

mod floor;
mod sls;

use crate::engine::Load;

/// An engine that can be measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// What it is called in tables and on the command line.
    pub(crate) name: &'static str,
    pub(crate) load: Load,
}

/// The floor: an event is read and nothing is evaluated. It is compared with nothing.
pub(crate) const FLOOR: &str = "floor";

/// The compiled matcher of SLS.
pub(crate) const SLS: &str = "sls";

pub(crate) const PEERS: [Peer; 3] = [
    Peer { name: FLOOR, load: floor::load },
    Peer { name: SLS, load: sls::load_compiled },
    Peer { name: "sls-plain", load: sls::load_plain },
];
