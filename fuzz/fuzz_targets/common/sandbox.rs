//! A directory of one process that fuzzes, and inputs of several documents.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Between two documents.
const SEPARATOR: &[u8] = b"\n===\n";

/// A new directory below that for temporary files, which `.ci/fuzz.sh` sets and removes.
pub fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("sls-fuzz-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a directory for temporary files");
    fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("the directory is ours");
    path
}

/// The documents of an input; those that it does not have are empty. The last takes what is left.
pub fn sections<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut rest = input;
    let mut left = N;
    [(); N].map(|()| {
        left -= 1;
        let end = rest.windows(SEPARATOR.len()).position(|part| part == SEPARATOR).filter(|_| left > 0);
        let (section, after) = match end {
            Some(end) => (&rest[..end], &rest[end + SEPARATOR.len()..]),
            None => (rest, &rest[rest.len()..]),
        };
        rest = after;
        section
    })
}
