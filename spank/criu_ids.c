/*
 * A part of criu_preload.so: users can have another number than 0 in their user namespace.
 *
 * CRIU takes on the ids that are 0 there, to see whether a container's namespaces belong together (check_user_ns() in
 * criu/namespaces.c, 4.2), and to pack the files of a tmpfs (cr_system_userns() in criu/util.c). If nobody is 0, there
 * are no such ids. If somebody else is, taking them on takes capabilities that the worker does not lend. The user's own
 * do as well: they made the namespace, so they have all rights in it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "criu_ids.h"
#include "util.h"

enum { LONGEST = 16 << 10 }; /* bytes of an id map: at most 340 lines of three numbers (user_namespaces(7)) */

static bool has_zero(const char *map)
{
	for (const char *line = map; line; line = strchr(line, '\n'), line += line != NULL)
		if (*line && strtoul(line, NULL, 10) == 0)
			return true;
	return false;
}

/* A copy of an id map in which the user is 0, too. CRIU takes the first line that fits, so he is himself in images. */
static int with_zero(const char *map, unsigned id)
{
	const int copy = memfd_create("id_map", MFD_CLOEXEC);

	if (copy >= 0 && dprintf(copy, "%s0 %u 1\n", map, id) > 0 && lseek(copy, 0, SEEK_SET) == 0)
		return copy;
	close_fd(&copy);
	errno = EIO;
	return -1;
}

int show_ids(const char *path, int fd)
{
	const bool uids = !strcmp(path, "uid_map");
	CLEANUP_FD int found = fd;
	char map[LONGEST];
	ssize_t size;

	if (fd < 0 || (!uids && strcmp(path, "gid_map")))
		return take_fd(&found);
	size = pread(fd, map, sizeof(map) - 1, 0);
	if (size <= 0 || size == sizeof(map) - 1)
		return take_fd(&found);
	map[size] = '\0';
	return has_zero(map) ? take_fd(&found) : with_zero(map, uids ? geteuid() : getegid());
}

/* Have what is executed next keep the capabilities: exec takes them from whoever isn't 0. */
static int keep_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2];

	if (syscall(SYS_capget, &header, sets) < 0)
		return -1;
	for (size_t i = 0; i < COUNT(sets); i++)
		sets[i].inheritable = sets[i].permitted;
	if (syscall(SYS_capset, &header, sets) < 0)
		return -1;
	for (int cap = 0; cap < 64; cap++)
		if ((sets[cap / 32].permitted >> cap % 32 & 1) &&
		    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
			return -1;
	return 0;
}

/* Only for tar, in the user's namespace: elsewhere 0 is always somebody. */
EXPORTED int setuid(uid_t id)
{
	if (syscall(SYS_setuid, id) == 0)
		return 0;
	return id == 0 && errno == EINVAL ? keep_capabilities() : -1;
}

EXPORTED int setgid(gid_t id)
{
	if (syscall(SYS_setgid, id) == 0)
		return 0;
	return id == 0 && errno == EINVAL ? 0 : -1;
}

/* Only for check_user_ns(). */
EXPORTED int setresuid(uid_t real, uid_t effective, uid_t saved)
{
	return syscall(SYS_setresuid, real, effective, saved) == 0 || errno == EPERM ? 0 : -1;
}

EXPORTED int setresgid(gid_t real, gid_t effective, gid_t saved)
{
	return syscall(SYS_setresgid, real, effective, saved) == 0 || errno == EPERM ? 0 : -1;
}
