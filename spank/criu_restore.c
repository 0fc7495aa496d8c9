/*
 * Loaded into a CRIU that restores.
 *
 * It can bind a file that is mounted elsewhere already. CRIU names such a source with a slash at its end, which is right
 * for directories only (do_bind_mount() in criu/mount.c, 4.2). So the mounts that a second mount namespace has of files
 * fail, as those that hide files in /proc, and a program's own of a file that config.json mounts.
 *
 * It can do without setting what belongs to the user namespace's number 0, if that is not the user: the limits of an IPC
 * namespace. They are as in the container, or it would not have been started (restore/sandbox.py).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
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

/* Whether CRIU names a limit of the IPC namespace by this path below /proc (ipc_sysctl_req() in criu/ipc_ns.c, 4.2). */
static bool is_limit(const char *path)
{
	static const char *const NAMES[] = { "kernel/sem", "kernel/msg", "kernel/shm", "kernel/auto_msgmni",
					     "fs/mqueue/" };

	if (!strncmp(path, "sys/", 4))
		path += 4;
	for (size_t i = 0; i < COUNT(NAMES); i++)
		if (!strncmp(path, NAMES[i], strlen(NAMES[i])))
			return true;
	return false;
}

static int open_there(int directory, const char *path, int flags, mode_t mode)
{
	const int fd = (int)syscall(SYS_openat, directory, path, flags, mode);

	if (fd >= 0 || errno != EACCES || (flags & O_ACCMODE) == O_RDONLY || geteuid() == 0 || !is_limit(path))
		return fd;
	return open("/dev/null", O_RDWR | O_CLOEXEC);
}

EXPORTED int openat64(int directory, const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list more;

	if (flags & O_CREAT || (flags & __O_TMPFILE) == __O_TMPFILE) {
		va_start(more, flags);
		mode = va_arg(more, mode_t);
		va_end(more);
	}
	return open_there(directory, path, flags, mode);
}

/* It is called by a CRIU that was built with _FORTIFY_SOURCE, where flags are no constants and there is no mode. */
EXPORTED int __openat64_2(int directory, const char *path, int flags);

int __openat64_2(int directory, const char *path, int flags)
{
	return open_there(directory, path, flags, 0);
}
