//! What is protected unless somebody says otherwise.

/// Programs that keep containers or the host running. Only absolute paths that root alone can write, and only in the
/// host's own PID and mount namespaces: whoever makes a mount namespace, which takes no privilege in a user namespace of
/// one's own, can have any file under any name there. So nobody gains protection by a name, as long as the guards are
/// told which mount namespace is the host's.
const RUNTIME_PROGRAMS: &[&str] = &[
    "containerd",
    "containerd-shim",
    "containerd-shim-runc-v1",
    "containerd-shim-runc-v2",
    "dockerd",
    "docker-proxy",
    "cri-dockerd",
    "buildkitd",
    "runc",
    "crun",
    "crio",
    "conmon",
    "podman",
    "kubelet",
    "k3s",
    "rke2",
];

/// Where those programs are. `*` stands for the version; everything below the directory in front of it is root's, and no
/// volume or root file system of a container is there.
const RUNTIME_DIRECTORIES: &[&str] = &[
    "/usr/bin/",
    "/usr/sbin/",
    "/usr/local/bin/",
    "/usr/local/sbin/",
    "/usr/libexec/",
    "/usr/libexec/podman/",
    // Flatcar and other systems whose /usr is read-only; RKE2 there.
    "/opt/bin/",
    "/opt/rke2/bin/",
    // What K3s and RKE2 unpack.
    "/var/lib/rancher/k3s/data/*/bin/",
    "/var/lib/rancher/rke2/data/*/bin/",
    // Google Kubernetes Engine.
    "/home/kubernetes/bin/",
    // A snap has a mount namespace of its own: of use only to guards that were not told the host's.
    "/snap/docker/*/bin/",
];

/// Where the C library and the dynamic loader are; everything below is root's.
const LIBRARY_DIRECTORIES: &[&str] = &["/lib/", "/lib/*/", "/lib64/", "/usr/lib/", "/usr/lib/*/", "/usr/lib64/"];

/// The files there without which no program starts, under the names of glibc before and since 2.34, and of musl.
const LIBRARIES: &[&str] = &["ld-linux*.so*", "ld-2.*.so", "ld-musl-*", "libc.so.6", "libc-2.*.so", "libc.musl-*"];

/// Other files without which a host does not start, or lets nobody in. Few: what an attacker plants must not be among them,
/// as `/etc/ld.so.preload` would be.
const FILES: &[&str] = &[
    "/usr/lib/systemd/systemd",
    "/lib/systemd/systemd",
    "/sbin/init",
    "/usr/sbin/init",
    "/bin/sh",
    "/bin/bash",
    "/bin/dash",
    "/bin/busybox",
    "/usr/bin/sh",
    "/usr/bin/bash",
    "/usr/bin/dash",
    "/usr/bin/busybox",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/gshadow",
    "/etc/sudoers",
    "/etc/fstab",
    "/boot/vmlinuz*",
    "/boot/vmlinux*",
    "/boot/Image*",
    "/boot/initrd*",
    "/boot/initramfs*",
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
];

/// Patterns of the programs that are container runtimes.
pub(super) fn runtime_programs() -> impl Iterator<Item = String> {
    pairs(RUNTIME_DIRECTORIES, RUNTIME_PROGRAMS)
}

/// Patterns of the files that a host needs.
pub(super) fn system_files() -> impl Iterator<Item = String> {
    pairs(LIBRARY_DIRECTORIES, LIBRARIES).chain(FILES.iter().map(|file| (*file).to_owned()))
}

fn pairs(directories: &'static [&'static str], names: &'static [&'static str]) -> impl Iterator<Item = String> {
    directories.iter().flat_map(move |directory| names.iter().map(move |name| format!("{directory}{name}")))
}

#[cfg(test)]
mod tests {
    use crate::event::{Event, EventKind};
    use crate::guard::Guards;
    use crate::schema::Field;

    fn guard(fields: &[(Field, &str)]) -> Option<String> {
        let mut event = Event::new(EventKind::File);
        for (field, text) in fields {
            event.set_text(*field, text.as_bytes());
        }
        Guards::default().file_refusal(&event).map(|refusal| refusal.guard.into_owned())
    }

    #[test]
    fn what_a_host_needs_is_protected() {
        for path in [
            "/usr/lib/x86_64-linux-gnu/libc.so.6",
            "/lib/x86_64-linux-gnu/libc-2.31.so",
            "/usr/lib64/ld-linux-x86-64.so.2",
            "/lib/x86_64-linux-gnu/ld-2.31.so",
            "/usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
            "/lib/ld-musl-x86_64.so.1",
            "/usr/lib/systemd/systemd",
            "/etc/passwd",
            "/boot/vmlinuz-6.12.0-1-amd64",
            "/usr/bin/dash",
        ] {
            assert_eq!(guard(&[(Field::FilePath, path)]), Some("system-file".into()), "{path}");
        }
        for path in [
            "/tmp/etc/passwd",
            "/etc/passwd-",
            "/etc/ld.so.preload",
            "/usr/bin/wget",
            "/etc/sudoers.d/x",
            "/tmp/libc.so.6",
        ] {
            assert_eq!(guard(&[(Field::FilePath, path)]), None, "{path}");
        }
    }

    #[test]
    fn any_name_of_the_file_protects_it() {
        use Field::{ContainerId, FilePath, HostFilePath, NewFilePath, NewHostFilePath};
        let other = (FilePath, "/tmp/x");
        let protected = Some("system-file".to_owned());
        assert_eq!(guard(&[other, (NewFilePath, "/etc/passwd")]), protected);
        assert_eq!(guard(&[other, (HostFilePath, "/etc/passwd")]), protected);
        assert_eq!(guard(&[other, (NewFilePath, "/x"), (NewHostFilePath, "/etc/passwd")]), protected);
        // In a container that has the host's /etc as a volume, and in one that has its own.
        let container = (ContainerId, "1234");
        assert_eq!(guard(&[container, (FilePath, "/host/passwd"), (HostFilePath, "/etc/passwd")]), protected);
        assert_eq!(guard(&[container, (FilePath, "/etc/passwd"), (HostFilePath, "/var/lib/x/etc/passwd")]), None);
        // If it is not known where it is on the host, it may be the host's.
        assert_eq!(guard(&[container, (FilePath, "/etc/passwd")]), protected);
    }

    #[test]
    fn guards_of_programs_and_of_files_are_apart() {
        let guards = Guards::none().protect_program("/opt/db").protect_path("/srv/db/*");
        let mut event = Event::new(EventKind::File);
        event.process = crate::event::ProcessKey { pid: 9, start: 9 };
        event.set_text(Field::ProgramName, b"/srv/db/x").set_text(Field::FilePath, b"/opt/db");
        assert_eq!(guards.refusal(&event), None);
        assert_eq!(guards.file_refusal(&event), None);
        event.set_text(Field::ProgramName, b"/opt/db").set_text(Field::FilePath, b"/srv/db/x");
        assert_eq!(guards.refusal(&event).unwrap().guard, "protected-program");
        assert_eq!(guards.file_refusal(&event).unwrap().guard, "protected-path");
        // The whole path may be another.
        event.mark_truncated(Field::FilePath);
        assert_eq!(guards.file_refusal(&event), None);
    }
}
