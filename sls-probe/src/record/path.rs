//! Paths and devices as records have them.

use sls_core::{Event, Field};

/// Sets `field` to the path whose components are given from leaf to root, each with a NUL.
pub(super) fn set(field: Field, leaf_first: &[u8], cut: bool, event: &mut Event) {
    if leaf_first.is_empty() && !cut {
        event.set_text(field, b"/");
    } else {
        event.set_text_parts(field, components(leaf_first));
    }
    if cut {
        event.mark_truncated(field);
    }
}

/// Sets `field` to a path as it was passed, from the directory that it starts from. `..` is resolved where what it leaves is
/// a directory's own name. What the caller wrote may be a link, and then `..` leads out of where that points: what is in
/// front of such a `..` is not known.
pub(super) fn set_passed(field: Field, passed: &[u8], directory: &[u8], cut: bool, event: &mut Event) {
    let names = passed.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let ups = names.clone().take_while(|name| *name == b"..").count();
    let below = names.skip(ups);
    let unsure = below.clone().enumerate().filter(|(_, name)| *name == b"..").last().map(|(index, _)| index + 1);
    // At the root, `..` is the root.
    let up = if passed.starts_with(b"/") { 0 } else { ups };
    let start = if unsure.is_some() { b"" } else { without_leaves(directory, up) };
    let rest = below.skip(unsure.unwrap_or(0)).flat_map(|name| [&b"/"[..], name]);
    event.set_text_parts(field, components(start).chain(rest));
    if cut || unsure.is_some() {
        event.mark_truncated(field);
    }
}

/// `c\0b\0a\0` as `b\0a\0`, so many times.
pub(super) fn without_leaves(mut leaf_first: &[u8], count: usize) -> &[u8] {
    for _ in 0..count {
        let end = leaf_first.iter().position(|byte| *byte == 0);
        leaf_first = end.map_or(&[], |end| &leaf_first[end + 1..]);
    }
    leaf_first
}

/// `c\0b\0a\0` as `/`, `a`, `/`, `b`, `/`, `c`.
pub(super) fn components(leaf_first: &[u8]) -> impl Iterator<Item = &[u8]> {
    let parts = leaf_first.strip_suffix(&[0]).unwrap_or(leaf_first).rsplit(|byte| *byte == 0);
    parts.filter(|part| !part.is_empty()).flat_map(|part| [&b"/"[..], part])
}

/// The path whose components are given from leaf to root.
pub(crate) fn path_of(leaf_first: &[u8]) -> Vec<u8> {
    let path: Vec<u8> = components(leaf_first).flatten().copied().collect();
    if path.is_empty() { b"/".to_vec() } else { path }
}

/// The number that stat(2) gives for a device that the kernel knows as `major << 20 | minor`.
pub(super) fn st_dev(device: u32) -> u64 {
    let (major, minor) = (device >> 20, device & 0xf_ffff);
    u64::from(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}
