//! What the kernel shows in `/proc`: names that programs and users choose, between what the kernel itself writes. The input
//! is taken for a whole file, for the name of a process, and for the place of a mount.

#![no_main]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    whole_file(input);
    named_process(input);
    mounted(input);
});

fn whole_file(text: &[u8]) {
    // They need not agree on what no kernel writes.
    let _ = (sls_probe::fuzzing::process_stat(text), sls_actions::fuzzing::process_stat(text));
    let _ = sls_probe::fuzzing::may_open(text);
    let paths = sls_probe::fuzzing::mounts(text);
    assert!(paths.iter().map(|path| path.as_os_str().len()).sum::<usize>() <= 2 * text.len());
    let _ = sls_probe::fuzzing::cgroup_mount(text);
    let _ = sls_actions::fuzzing::cgroup_mount(text);
}

/// Whatever a process calls itself, its parent and its start time are the kernel's.
fn named_process(name: &[u8]) {
    let line = [&b"4242 ("[..], name, b") S 17 4242 4242 34816 4242 4194304 1 0 0 0 0 0 0 0 20 0 1 0 98765 4096 9"];
    let line = line.concat();
    assert_eq!(sls_probe::fuzzing::process_stat(&line), Some((17, 98765)));
    assert_eq!(sls_actions::fuzzing::process_stat(&line), Some((17, 98765)));
}

/// Wherever something is mounted, it is there that it is found, and nothing else is hidden by it.
fn mounted(name: &[u8]) {
    // No name has these.
    if name.iter().any(|byte| matches!(byte, 0 | b'/')) || matches!(name, b"" | b"." | b"..") {
        return;
    }
    let mut escaped = Vec::new();
    for byte in name {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => escaped.extend(format!("\\{byte:03o}").bytes()),
            byte => escaped.push(*byte),
        }
    }
    let before = [b"21 1 0:30 / /home/", &escaped[..], b" rw - fuse.x x rw\n"].concat();
    let table = [&before[..], b"34 25 0:29 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n"].concat();
    let expected = Path::new("/home").join(std::ffi::OsStr::from_bytes(name));
    assert_eq!(sls_probe::fuzzing::mounts(&table), [expected.as_path(), Path::new("/sys/fs/cgroup")]);
    assert_eq!(sls_probe::fuzzing::cgroup_mount(&table).as_deref(), Some(Path::new("/sys/fs/cgroup")));
    assert_eq!(sls_actions::fuzzing::cgroup_mount(&table).as_deref(), Some(Path::new("/sys/fs/cgroup")));
}
