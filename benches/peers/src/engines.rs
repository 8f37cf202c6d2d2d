//! The engines, each by its documented fast path.

mod a_tree;
mod cel;
mod expression;
mod floor;
mod named;
mod rsigma;
mod sls;
mod tau;
mod wirefilter;

use crate::engine::Load;

/// An engine that can be measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// What it is called in tables and on the command line.
    pub(crate) name: &'static str,
    pub(crate) load: Load,
    /// Whether it is among those of a quick run.
    pub(crate) quick: bool,
}

/// The floor: an event is read and nothing is evaluated. It is compared with nothing.
pub(crate) const FLOOR: &str = "floor";

/// The compiled matcher of SLS.
pub(crate) const SLS: &str = "sls";

/// Compiled filters without an index: the fastest of the others for few rules.
pub(crate) const WIREFILTER: &str = "wirefilter-engine";

/// An index over rules: the fastest of the others for many.
pub(crate) const RSIGMA: &str = "rsigma-eval";

pub(crate) const PEERS: [Peer; 8] = [
    Peer { name: FLOOR, load: floor::load, quick: true },
    Peer { name: SLS, load: sls::load_compiled, quick: true },
    Peer { name: "sls-plain", load: sls::load_plain, quick: false },
    Peer { name: WIREFILTER, load: wirefilter::load, quick: true },
    Peer { name: RSIGMA, load: rsigma::load, quick: true },
    Peer { name: "a-tree", load: a_tree::load, quick: false },
    Peer { name: "tau-engine", load: tau::load, quick: false },
    Peer { name: "cel", load: cel::load, quick: false },
];
