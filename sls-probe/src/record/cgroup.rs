//! What records say about cgroups. They are for the reader alone.

use super::{Body, Header, RecordError, flag};
use crate::container::{CgroupMaker, Hierarchy};

/// A cgroup that came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CgroupRecord<'r> {
    pub(crate) hierarchy: Hierarchy,
    pub(crate) id: u64,
    pub(crate) removed: bool,
    /// From the root of the hierarchy. `None` if it could not be read.
    pub(crate) path: Option<&'r [u8]>,
    /// The end of the path is missing.
    pub(crate) cut: bool,
    /// Who did it.
    pub(crate) maker: CgroupMaker,
    /// On the boot clock.
    pub(crate) time: u64,
}

impl<'r> CgroupRecord<'r> {
    pub(super) fn new(header: &Header, body: &Body<'r>) -> Result<Self, RecordError> {
        let short = RecordError::Length { have: body.detail.len(), stated: 16 };
        // `struct cgroup_detail`.
        let (id, rest) = body.detail.split_first_chunk().ok_or(short)?;
        let (hierarchy, rest) = rest.split_first_chunk().ok_or(short)?;
        let (removed, _) = rest.split_first_chunk().ok_or(short)?;
        let hierarchy = if u32::from_le_bytes(*hierarchy) == 0 { Hierarchy::Unified } else { Hierarchy::Legacy };
        Ok(Self {
            hierarchy,
            id: u64::from_le_bytes(*id),
            removed: u32::from_le_bytes(*removed) != 0,
            path: (!header.has(flag::TEXT_UNKNOWN)).then_some(body.text),
            cut: header.has(flag::TEXT_CUT),
            maker: CgroupMaker::new(header.uid)
                .mount_namespace((header.mount_namespace != 0).then_some(header.mount_namespace))
                .name(header.comm.split(|byte| *byte == 0).next().unwrap_or_default()),
            time: header.time,
        })
    }
}
