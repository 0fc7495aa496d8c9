/*
 * CRIU opens /proc/PID/clear_refs to read it, too, though it only writes there to have the kernel track what memory a
 * process writes (do_task_reset_dirty_track() in criu/mem.c, 4.2). The file is for its owner to write and for nobody to
 * read, so without a DAC override that fails. Loaded into a user's CRIU before its libraries, this opens it to be written.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((visibility("default"))) int openat64(int directory, const char *path, int flags, ...)
{
	mode_t mode = 0;

	if (flags & (O_CREAT | __O_TMPFILE)) {
		va_list more;

		va_start(more, flags);
		mode = va_arg(more, mode_t);
		va_end(more);
	}
	if ((flags & O_ACCMODE) == O_RDWR && !strcmp(path, "clear_refs"))
		flags = (flags & ~O_ACCMODE) | O_WRONLY;
	return (int)syscall(SYS_openat, directory, path, flags, mode);
}
