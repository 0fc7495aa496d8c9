/*
 * Loaded into a CRIU that restores: it can bind a file that is mounted elsewhere already.
 *
 * CRIU names such a source with a slash at its end, which is right for directories only (do_bind_mount() in
 * criu/mount.c, 4.2). So the mounts that a second mount namespace has of files fail, as those that hide files in /proc,
 * and a program's own of a file that config.json mounts.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util.h"

EXPORTED int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data)
{
	char name[PATH_MAX];
	size_t length;
	int done = (int)syscall(SYS_mount, source, target, type, flags, data);

	if (done == 0 || errno != ENOTDIR || !(flags & MS_BIND) || !source)
		return done;
	length = strnlen(source, sizeof(name));
	while (length > 1 && source[length - 1] == '/')
		length--;
	if (length == sizeof(name) || !source[length]) {
		errno = ENOTDIR;
		return -1;
	}
	memcpy(name, source, length);
	name[length] = '\0';
	return (int)syscall(SYS_mount, name, target, type, flags, data);
}
