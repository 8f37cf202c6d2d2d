//! What the store knows about a file: one JSON document each.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{Stat, Timespec};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::name;

/// Version of the documents.
pub(super) const SCHEMA_VERSION: u32 = 1;

/// How far a file is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum QuarantineState {
    /// It is about to be renamed into the store, or has just been.
    Moving,
    /// It is being copied into the store from another file system; the original is in its place.
    Copying,
    /// The copy is whole; the original is being removed.
    Removing,
    /// It is in the store.
    Complete,
    /// It is being put back.
    Restoring,
    /// A file that is being deleted, without a place in the store.
    Deleting,
}

impl QuarantineState {
    /// The name in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Moving => "moving",
            Self::Copying => "copying",
            Self::Removing => "removing",
            Self::Complete => "complete",
            Self::Restoring => "restoring",
            Self::Deleting => "deleting",
        }
    }
}

/// One file of the store: where it was, what it was, and why it is here. It serializes to the documented JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct QuarantineEntry {
    /// Version of this object.
    pub schema_version: u32,
    /// The id of the entry: the uuid of its alert, unless that was taken.
    pub id: Uuid,
    /// The alert that told of it.
    pub alert_uuid: Uuid,
    /// Name of the policy that asked for it.
    pub policy: String,
    /// When, in nanoseconds since the epoch.
    pub time: u64,
    /// How far it is.
    pub state: QuarantineState,
    /// Where it was.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Whether that path is one of the host. If not it is a container's, and the file can be restored to another only.
    pub path_on_host: bool,
    /// Name of the file in the store.
    pub entry: String,
    /// Device of its file system then, as stat(2) gives it.
    pub device: u64,
    /// Its inode then.
    pub inode: u64,
    /// Its length, in bytes.
    pub size: u64,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits, set-id and sticky bits included.
    pub mode: u32,
    /// Last access, in nanoseconds since the epoch.
    pub accessed: i128,
    /// Last change of its content, in nanoseconds since the epoch.
    pub modified: i128,
    /// Its extended attributes: name and value, each with `%XX` for what is not harmless.
    pub xattrs: Vec<(String, String)>,
    /// SHA-256 of its content, in hexadecimal; none of a file that is longer than the limit, or not yet.
    pub sha256: Option<String>,
    /// Where it is being put back.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_path_text")]
    pub(super) target: Option<PathBuf>,
    /// Inode of the copy that is being put there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) placed_inode: Option<u64>,
}

impl QuarantineEntry {
    /// For a file that is at `path`.
    pub(super) fn new(id: Uuid, state: QuarantineState, path: &[u8], stat: &Stat) -> Self {
        let file_name = name::split(path).map(|(_, file_name)| file_name.into_vec()).unwrap_or_default();
        Self {
            schema_version: SCHEMA_VERSION,
            id,
            alert_uuid: id,
            policy: String::new(),
            time: now(),
            state,
            path: OsString::from_vec(path.to_vec()).into(),
            path_on_host: true,
            entry: name::entry_name(&id.to_string(), &file_name),
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            accessed: nanoseconds(stat.st_atime, stat.st_atime_nsec),
            modified: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            xattrs: Vec::new(),
            sha256: None,
            target: None,
            placed_inode: None,
        }
    }

    pub(super) fn manifest_name(&self) -> String {
        format!("{}.json", self.id)
    }

    /// Where a copy is made before it is whole.
    pub(super) fn partial_name(&self) -> String {
        format!("{}.partial", self.id)
    }

    /// The directory beside the file in which nobody but the sensor can change anything.
    pub(super) fn aside_name(&self) -> String {
        format!(".sls-{}", self.id)
    }
}

pub(super) fn now() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok();
    time.and_then(|time| u64::try_from(time.as_nanos()).ok()).unwrap_or(0)
}

#[allow(clippy::useless_conversion)]
fn nanoseconds(seconds: i64, nanoseconds: u64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

pub(super) fn timespec(time: i128) -> Timespec {
    let (seconds, nanoseconds) = (time.div_euclid(1_000_000_000), time.rem_euclid(1_000_000_000));
    // The remainder is below a billion, and the seconds came from as many bits.
    Timespec { tv_sec: seconds.try_into().unwrap_or(0), tv_nsec: nanoseconds.try_into().unwrap_or(0) }
}

mod path_text {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&name::encode_path(path.as_os_str().as_bytes()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = name::decode(&text).ok_or_else(|| serde::de::Error::custom("no percent-encoded path"))?;
        Ok(OsString::from_vec(bytes).into())
    }
}

mod optional_path_text {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Text(#[serde(with = "path_text")] PathBuf);

    pub(super) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.clone().map(Text).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Text>::deserialize(deserializer)?.map(|text| text.0))
    }
}
