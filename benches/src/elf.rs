//! The smallest executables: without a loader or libc.

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;

#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// Where an executable is mapped: the address of its first byte.
pub const BASE: u64 = 0x40_0000;
/// A page wherever pages are largest.
const PAGE: u64 = 0x1_0000;
const HEADER_BYTES: u16 = 64;
const SEGMENT_BYTES: u16 = 56;

/// An executable for this processor: one header, one segment, and the code.
#[must_use]
pub fn elf(code: &[u8]) -> Vec<u8> {
    let code_at = u64::from(HEADER_BYTES + SEGMENT_BYTES);
    let size = code_at + code.len() as u64;
    // 64 bits, little-endian, version 1, System V.
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |bytes: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    let word = |bytes: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    let long = |bytes: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    // Executable, machine, version; entry, segments, no sections; no flags; sizes and counts.
    half(&mut bytes, &[2, MACHINE]);
    word(&mut bytes, &[1]);
    long(&mut bytes, &[BASE + code_at, HEADER_BYTES.into(), 0]);
    word(&mut bytes, &[0]);
    half(&mut bytes, &[HEADER_BYTES, SEGMENT_BYTES, 1, 0, 0, 0]);
    // To load, readable and executable; file offset, addresses, sizes, alignment.
    word(&mut bytes, &[1, 5]);
    long(&mut bytes, &[0, BASE, BASE, size, size, PAGE]);
    bytes.extend(code);
    bytes
}
