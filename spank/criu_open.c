/*
 * Loaded into a CRIU that restores: what it opens, and can't as it does.
 *
 * Of a file lease that is being broken (fcntl(2), "Leases"), programs are told once. CRIU has such a lease broken again,
 * by opening the file without waiting, and holds back the signal only meanwhile (restore_file_lease() in
 * criu/file-lock.c, 4.2), so that the program gets it when it runs. Here it is taken. Nothing else waits at that time:
 * signals that had been sent to the program come last.
 *
 * The limits of an IPC namespace belong to the user namespace's number 0. If that is not the user, CRIU can't set them.
 * They are as in the container already, or it would not have been started (restore/ipc.py).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>

#include "util.h"

static void take_signal(void)
{
	struct timespec now = { 0 };
	sigset_t waiting;

	if (sigpending(&waiting) == 0) {
		sigdelset(&waiting, SIGCHLD);
		sigtimedwait(&waiting, NULL, &now);
	}
	errno = EWOULDBLOCK;
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

	if (fd < 0 && errno == EWOULDBLOCK && flags & O_NONBLOCK)
		take_signal();
	if (fd < 0 && errno == EACCES && (flags & O_ACCMODE) != O_RDONLY && geteuid() && is_limit(path))
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	return fd;
}

EXPORTED int openat64(int directory, const char *path, int flags, ...)
{
	va_list more;
	mode_t mode = 0;

	va_start(more, flags);
	if (flags & O_CREAT || (flags & __O_TMPFILE) == __O_TMPFILE)
		mode = va_arg(more, mode_t);
	va_end(more);
	return open_there(directory, path, flags, mode);
}

/* It is called by a CRIU that was built with _FORTIFY_SOURCE, where flags are no constants and there is no mode. */
EXPORTED int __openat64_2(int directory, const char *path, int flags);

int __openat64_2(int directory, const char *path, int flags)
{
	return open_there(directory, path, flags, 0);
}
