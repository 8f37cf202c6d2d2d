//! Files that hold what a test has to find. With `SLS_BLESS` in the environment they are written anew first.

use std::fs;
use std::path::Path;

/// Whether `path` holds `found`. `about` names what it is in a failure.
pub(crate) fn check(path: &Path, found: &str, about: &str) {
    if std::env::var_os("SLS_BLESS").is_some() {
        fs::write(path, found).unwrap();
    }
    let wanted = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(found, wanted, "{about}: not what {} has", path.display());
}
