/*
 * Loaded into a CRIU that restores: of a file lease that is being broken (fcntl(2), "Leases"), programs are told once.
 *
 * CRIU has such a lease broken again, by opening the file without waiting, and holds back the signal only meanwhile
 * (restore_file_lease() in criu/file-lock.c, 4.2), so that the program gets it when it runs. Here it is taken. Nothing
 * else waits at that time: signals that had been sent to the program come last.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
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

static int open_there(int directory, const char *path, int flags, mode_t mode)
{
	int fd = (int)syscall(SYS_openat, directory, path, flags, mode);

	if (fd < 0 && errno == EWOULDBLOCK && flags & O_NONBLOCK)
		take_signal();
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
