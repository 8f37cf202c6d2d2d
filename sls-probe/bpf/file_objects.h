/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* File events from the kernel's own objects. Opens are seen where the kernel asks its security modules, with the file at
 * hand. What works on names is seen twice: security_path_* have the directory with its mount, but come before the
 * permission is checked, so they only note it for the thread; the function of the VFS that does it says that it was done,
 * and has the dentry but no mount. What comes without a note is not reported: it is the kernel's own (nfsd), or a file
 * system that works on the one below it (overlayfs), whose dentries are others. */
#ifndef SLS_FILE_OBJECTS_H
#define SLS_FILE_OBJECTS_H

#include "file_pending.h"

SEC("fentry/security_path_mknod")
int on_path_mknod(u64 *ctx)
{
	return note_child(FILE_CREATE, (void *)ctx[0], (void *)ctx[1]);
}

SEC("fentry/security_path_mkdir")
int on_path_mkdir(u64 *ctx)
{
	return note_child(FILE_CREATE, (void *)ctx[0], (void *)ctx[1]);
}

SEC("fentry/security_path_symlink")
int on_path_symlink(u64 *ctx)
{
	return note_child(FILE_SYMLINK, (void *)ctx[0], (void *)ctx[1]);
}

SEC("fentry/security_path_unlink")
int on_path_unlink(u64 *ctx)
{
	return note_removal((void *)ctx[0], (void *)ctx[1]);
}

SEC("fentry/security_path_rmdir")
int on_path_rmdir(u64 *ctx)
{
	return note_removal((void *)ctx[0], (void *)ctx[1]);
}

/* The kernel does not say through which mount the old name was found. It is on the same one: links do not cross them. */
SEC("fentry/security_path_link")
int on_path_link(u64 *ctx)
{
	struct dentry *old = (void *)ctx[0], *new = (void *)ctx[2];
	struct path *directory = (void *)ctx[1];
	struct pending *p = note(FILE_LINK, (u64)new);

	if (!p)
		return 0;
	p->mount = (u64)directory->mnt;
	p->directory = (u64)old->d_parent;
	bpf_probe_read_kernel_str(p->name, NAME_BYTES, old->d_name.name);
	note_name2(p, directory, new);
	p->moved = (u64)old;
	return 0;
}

SEC("fentry/security_path_rename")
int on_path_rename(u64 *ctx)
{
	struct dentry *old = (void *)ctx[1], *new = (void *)ctx[3];
	struct pending *p = note(FILE_RENAME, (u64)new);

	if (!p)
		return 0;
	note_name(p, (void *)ctx[0], old);
	note_name2(p, (void *)ctx[2], new);
	p->moved = (u64)old;
	p->flags = (u32)ctx[4];
	return 0;
}

INLINE int note_file(u32 operation, struct path *path)
{
	struct pending *p = note(operation, (u64)path->dentry);

	if (p) {
		p->mount = (u64)path->mnt;
		p->directory = (u64)path->dentry;
	}
	return 0;
}

SEC("fentry/security_path_chmod")
int on_path_chmod(u64 *ctx)
{
	return note_file(FILE_CHMOD, (void *)ctx[0]);
}

SEC("fentry/security_path_chown")
int on_path_chown(u64 *ctx)
{
	return note_file(FILE_CHOWN, (void *)ctx[0]);
}

SEC("fentry/security_path_truncate")
int on_path_truncate(u64 *ctx)
{
	return note_file(FILE_TRUNCATE, (void *)ctx[0]);
}

SEC("fentry/security_file_truncate")
int on_file_truncate(u64 *ctx)
{
	struct file *file = (void *)ctx[0];

	return note_file(FILE_TRUNCATE, &file->f_path);
}

SEC("fentry/mnt_want_write")
int on_want_write(u64 *ctx)
{
	return note_mount(ctx[0]);
}

SEC("fentry/mnt_want_write_file")
int on_want_write_file(u64 *ctx)
{
	struct file *file = (void *)ctx[0];

	return note_mount((u64)file->f_path.mnt);
}

/* A name in a directory. */
INLINE u16 add_child(struct scratch *s, u8 *name, u64 directory, u64 mount, u16 cut, u32 slot)
{
	if (add_name(s, name) < 0)
		return cut;
	return add_raw_path(s, (void *)directory, (void *)mount, cut, walk_file, slot);
}

/* What was noted, of the file that `dentry` is now. `swapped`: of the other one in an exchange. */
INLINE void report(u32 slot, struct pending *p, u64 dentry, bool swapped)
{
	struct scratch *s = file_slot(slot);
	struct file_detail *detail;
	bool second = p->directory2 != 0, wanted;
	u16 flags = 0;
	u32 start;

	if (!s)
		return;
	detail = begin(s, p->operation, second ? FILE_SECOND : 0);
	if (p->operation == FILE_UNLINK) {
		s->record.inode = p->inode;
		s->record.device = p->device;
		detail->mode = p->mode;
		detail->uid = p->uid;
		detail->gid = p->gid;
		detail->bits |= FILE_ATTRIBUTES;
		flags |= FLAG_FILE;
	} else {
		flags |= add_inode(s, read(struct dentry, dentry, d_inode));
	}
	start = s->pos;
	begin_path(s);
	if (swapped)
		flags |= add_child(s, p->name2, p->directory2, p->mount2, FLAG_PATH_CUT, slot);
	else
		flags |= add_child(s, p->name, p->directory, p->mount, FLAG_PATH_CUT, slot);
	s->record.path_len = s->pos - start;
	wanted = wants_path(s, p->operation & 31, flags & FLAG_PATH_CUT);
	if (second) {
		start = s->pos;
		begin_path(s);
		if (swapped)
			flags |= add_child(s, p->name, p->directory, p->mount, FLAG_PATH2_CUT, slot);
		else
			flags |= add_child(s, p->name2, p->directory2, p->mount2, FLAG_PATH2_CUT, slot);
		s->record.path2_len = s->pos - start;
		wanted |= wants_path(s, p->operation & 31, flags & FLAG_PATH2_CUT);
	}
	if (wanted)
		emit(s, RECORD_FILE, flags);
}

/* A function of the VFS returns. */
INLINE int done(u64 *ctx, enum proto_of proto, u32 operation, u32 slot)
{
	u64 dentry = dentry_of(ctx, proto);
	struct pending *p = noted(dentry, 1 << operation);

	if (!p || !succeeded(ctx, proto))
		return 0;
	p->dentry = 0;
	if (p->moved)
		dentry = p->moved;
	else if (file_config.protos[proto].pointer)
		dentry = arg(ctx, file_config.protos[proto].result);
	report(slot, p, dentry, 0);
	return 0;
}

SEC("fexit/vfs_create")
int on_vfs_create(u64 *ctx)
{
	return done(ctx, PROTO_CREATE, FILE_CREATE, SLOT_CREATE);
}

SEC("fexit/vfs_mknod")
int on_vfs_mknod(u64 *ctx)
{
	return done(ctx, PROTO_MKNOD, FILE_CREATE, SLOT_MKNOD);
}

SEC("fexit/vfs_mkdir")
int on_vfs_mkdir(u64 *ctx)
{
	return done(ctx, PROTO_MKDIR, FILE_CREATE, SLOT_MKDIR);
}

SEC("fexit/vfs_rmdir")
int on_vfs_rmdir(u64 *ctx)
{
	return done(ctx, PROTO_RMDIR, FILE_UNLINK, SLOT_RMDIR);
}

/* Where the compiler made two functions of vfs_rmdir, and the kernel calls one of them alone: what is removed is taken out
 * of the cache. */
SEC("fentry/d_delete")
int on_d_delete(u64 *ctx)
{
	struct pending *p = noted(ctx[0], 1 << FILE_UNLINK);

	if (!p)
		return 0;
	p->dentry = 0;
	report(SLOT_RMDIR, p, 0, 0);
	return 0;
}

SEC("fexit/vfs_unlink")
int on_vfs_unlink(u64 *ctx)
{
	return done(ctx, PROTO_UNLINK, FILE_UNLINK, SLOT_UNLINK);
}

SEC("fexit/vfs_symlink")
int on_vfs_symlink(u64 *ctx)
{
	return done(ctx, PROTO_SYMLINK, FILE_SYMLINK, SLOT_SYMLINK);
}

SEC("fexit/vfs_link")
int on_vfs_link(u64 *ctx)
{
	return done(ctx, PROTO_LINK, FILE_LINK, SLOT_LINK);
}

SEC("fexit/vfs_rename")
int on_vfs_rename(u64 *ctx)
{
	u64 dentry = dentry_of(ctx, PROTO_RENAME);
	struct pending *p;
	u64 moved;

	/* One argument: a structure with all of them. */
	if (file_config.protos[PROTO_RENAME].result == 1)
		dentry = (u64)read(struct renamedata, dentry, new_dentry);
	p = noted(dentry, 1 << FILE_RENAME);
	if (!p || !succeeded(ctx, PROTO_RENAME))
		return 0;
	p->dentry = 0;
	moved = p->moved;
	report(SLOT_RENAME, p, moved, 0);
	if (p->flags & RENAME_EXCHANGE)
		report(SLOT_RENAME, p, dentry, 1);
	return 0;
}

/* The file that the attributes are of. */
INLINE void report_file(u32 slot, u32 operation, u64 dentry, u64 mount)
{
	struct scratch *s = file_slot(slot);
	u16 flags;

	if (!s)
		return;
	begin(s, operation, 0);
	flags = add_inode(s, read(struct dentry, dentry, d_inode));
	begin_path(s);
	flags |= add_raw_path(s, (void *)dentry, (void *)mount, FLAG_PATH_CUT, walk_file, slot);
	s->record.path_len = s->pos - sizeof(struct file_detail);
	if (wants_path(s, operation, flags & FLAG_PATH_CUT))
		emit(s, RECORD_FILE, flags);
}

SEC("fexit/notify_change")
int on_notify_change(u64 *ctx)
{
	u32 index = file_config.protos[PROTO_NOTIFY_CHANGE].dentry;
	u64 dentry = arg(ctx, index), attributes = arg(ctx, index + 1);
	struct pending *p = noted(dentry, 1 << FILE_CHMOD | 1 << FILE_CHOWN | 1 << FILE_TRUNCATE);
	u32 valid, operation;
	u64 mount;

	if (!succeeded(ctx, PROTO_NOTIFY_CHANGE))
		return 0;
	valid = read(struct iattr, attributes, ia_valid);
	if (p) {
		operation = p->operation;
		mount = p->mount;
	} else if (file_config.chown_by_mount && wants(FILE_CHOWN)) {
		operation = FILE_CHOWN;
		mount = mount_of(dentry);
	} else {
		return 0;
	}
	/* What was noted may have been refused, and this be something else. */
	if (operation == FILE_CHMOD)
		valid &= ATTR_MODE;
	else if (operation == FILE_CHOWN)
		valid &= ATTR_UID | ATTR_GID;
	else
		valid = valid & ATTR_OPEN ? 0 : valid & ATTR_SIZE;
	if (!valid || !mount)
		return 0;
	if (p)
		p->dentry = 0;
	report_file(SLOT_ATTRIBUTES, operation, dentry, mount);
	return 0;
}

INLINE int attribute_set(u64 *ctx, enum proto_of proto, u32 slot)
{
	u64 dentry = dentry_of(ctx, proto), mount;

	if (!succeeded(ctx, proto) || !wants(FILE_SETXATTR))
		return 0;
	mount = mount_of(dentry);
	if (mount)
		report_file(slot, FILE_SETXATTR, dentry, mount);
	return 0;
}

SEC("fexit/vfs_setxattr")
int on_vfs_setxattr(u64 *ctx)
{
	return attribute_set(ctx, PROTO_SETXATTR, SLOT_SETXATTR);
}

SEC("fexit/vfs_removexattr")
int on_vfs_removexattr(u64 *ctx)
{
	return attribute_set(ctx, PROTO_REMOVEXATTR, SLOT_REMOVEXATTR);
}

SEC("fexit/vfs_set_acl")
int on_vfs_set_acl(u64 *ctx)
{
	return attribute_set(ctx, PROTO_SET_ACL, SLOT_SET_ACL);
}

SEC("fexit/vfs_remove_acl")
int on_vfs_remove_acl(u64 *ctx)
{
	return attribute_set(ctx, PROTO_REMOVE_ACL, SLOT_REMOVE_ACL);
}

/* Typed, so that loads are cheap: this is what every open for writing pays. */
INLINE void report_open(struct file *file, u32 operation, u32 slot)
{
	struct inode *inode = file->f_inode;
	struct scratch *s = file_slot(slot);
	struct file_detail *detail;
	u16 flags = FLAG_FILE;
	u32 len;

	if (!s)
		return;
	s->pos = sizeof(*detail);
	begin_path(s);
	flags |= add_path(s, file->f_path.dentry, file->f_path.mnt, FLAG_PATH_CUT, walk_file, slot);
	len = s->pos - sizeof(*detail);
	if (!wants_path(s, operation, flags & FLAG_PATH_CUT))
		return;
	detail = begin(s, operation, FILE_ATTRIBUTES);
	s->pos += len;
	s->record.path_len = len;
	s->record.inode = inode->i_ino;
	s->record.device = inode->i_sb->s_dev;
	detail->mode = inode->i_mode;
	detail->uid = inode->i_uid.val;
	detail->gid = inode->i_gid.val;
	emit(s, RECORD_FILE, flags);
}

/* Modules that are asked after this may still refuse. */
SEC("fentry/security_file_open")
int on_open(u64 *ctx)
{
	struct file *file = (void *)ctx[0];
	u32 mode = file->f_mode, operation = mode & FMODE_CREATED ? FILE_CREATE : FILE_OPEN_WRITE;
	struct inode *inode;

	if (!(mode & (FMODE_WRITE | FMODE_CREATED)) || mode & FMODE_NOACCOUNT)
		return 0;
	inode = file->f_inode;
	if (is_dull(inode->i_mode, inode->i_rdev))
		return 0;
	if (file_config.writers && mode & FMODE_WRITE) {
		u64 key = (u64)file;
		struct opened opened = { .time = bpf_ktime_get_boot_ns(), .opener = process_start() };

		bpf_map_update_elem(&file_opened, &key, &opened, 0);
	}
	if (!wants(operation) || is_internal((u64)file->f_path.mnt))
		return 0;
	report_open(file, operation, SLOT_OPEN);
	return 0;
}

/* The memory of a process: who may have it is decided when its file is opened. */
SEC("fexit/mem_open")
int on_mem_open(u64 *ctx)
{
	struct file *file = (void *)ctx[1];

	if (!(file->f_mode & FMODE_WRITE) || (u32)ctx[2])
		return 0;
	send_memory(SLOT_MEMORY, (void *)ctx[0]);
	return 0;
}

/* The first write of a process to a file that another one opened. */
SEC("fentry/security_file_permission")
int on_permission(u64 *ctx)
{
	struct file *file = (void *)ctx[0];
	struct writer writer = { .file = (u64)file };
	struct opened *opened, unknown = {};
	struct inode *inode;
	u64 *written, time;
	u32 type;

	if (!((u32)ctx[1] & MAY_WRITE))
		return 0;
	inode = file->f_inode;
	type = inode->i_mode & S_IFMT;
	if ((type != S_IFREG && type != S_IFBLK) || file->f_mode & FMODE_NOACCOUNT)
		return 0;
	writer.process = process_start();
	opened = bpf_map_lookup_elem(&file_opened, &writer.file);
	if (opened) {
		if (opened->opener == writer.process)
			return 0;
		time = opened->time;
	} else {
		/* Opened before there was somebody to see it. */
		time = unknown.time = bpf_ktime_get_boot_ns();
		bpf_map_update_elem(&file_opened, &writer.file, &unknown, 0);
	}
	written = bpf_map_lookup_elem(&file_writers, &writer);
	if (written && *written == time)
		return 0;
	bpf_map_update_elem(&file_writers, &writer, &time, 0);
	if (wants(FILE_WRITE) && !is_internal((u64)file->f_path.mnt))
		report_open(file, FILE_WRITE, SLOT_WRITE);
	return 0;
}

#endif
