/*
 * Nothing here follows a link that a user made, or asks a file system that a user may have mounted. Only root makes
 * names in RUN_DIR. The contents of a job's directory are a tmpfs of their own, which goes as a whole; before that,
 * only processes of the job's user read them, and Slurm says who that is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <slurm/spank.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "paths.h"
#include "rundir.h"
#include "spawn.h"
#include "util.h"

#define PLACE (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* Bounds of each job's tmpfs, for the records of its containers; what it takes is the job's own memory. */
#define BOUNDS "size=256m,nr_inodes=65536"

/* Seconds for all that is done as the user: nobody's files may hold up the node. */
#ifndef USER_SECONDS
#define USER_SECONDS 30
#endif

/* Epilogs of other jobs remove RUN_DIR when it is empty, at any time. */
enum { MAKE_ATTEMPTS = 100 };

struct names {
	char job[24];
	char directory[16];
	char path[sizeof(RUN_DIR) + 16]; /* of the directory */
	char marker[24];
	char record[24];
};

static struct names names_of(uint32_t job)
{
	struct names names;

	snprintf(names.job, sizeof(names.job), "JobId=%" PRIu32, job);
	snprintf(names.directory, sizeof(names.directory), "%" PRIu32, job);
	snprintf(names.path, sizeof(names.path), JOB_DIRECTORY, job);
	snprintf(names.marker, sizeof(names.marker), "%" PRIu32 ".watch", job);
	snprintf(names.record, sizeof(names.record), "%" PRIu32 ".owner", job);
	return names;
}

static int open_base(void)
{
	return open(RUN_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static int make_base(void)
{
	int fd;

	if (mkdir(RUN_DIR, 0755) < 0 && errno != EEXIST)
		return -1;
	if ((fd = open_base()) >= 0 && fchmod(fd, 0755) < 0) {
		close_fd(&fd);
		return -1;
	}
	return fd;
}

static int fail(const char *name)
{
	slurm_error("oci-criu-shim: %s/%s: %s", RUN_DIR, name, strerror(errno));
	return -1;
}

static int leave_alone(const char *name)
{
	slurm_error("oci-criu-shim: %s/%s is not what was made for the job, and is left alone: %s", RUN_DIR, name,
		    strerror(errno));
	return -1;
}

/* Look at a place without asking the file system that is there. */
static int look(int fd, struct statx *found)
{
	return statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_UID, found);
}

static bool same_device(const struct statx *one, const struct statx *other)
{
	return one->stx_dev_major == other->stx_dev_major && one->stx_dev_minor == other->stx_dev_minor;
}

static bool is_tmpfs(const struct statx *place)
{
	CLEANUP_FILE FILE *mounts = fopen("/proc/self/mountinfo", "re");
	CLEANUP_TEXT char *line = NULL;
	struct statx mounted;
	size_t size = 0;

	while (mounts && getline(&line, &size, mounts) > 0)
		if (sscanf(line, "%*d %*d %u:%u", &mounted.stx_dev_major, &mounted.stx_dev_minor) == 2 &&
		    same_device(&mounted, place))
			return strstr(line, " - tmpfs ");
	return false;
}

/* Open a job's place, and tell if something is mounted on it. -1 and errno on failure. */
static int open_place(int base, const char *name, struct statx *found, bool *mounted)
{
	CLEANUP_FD int fd = openat(base, name, PLACE);
	struct statx below;

	if (fd < 0 || look(base, &below) < 0 || look(fd, found) < 0)
		return -1;
	*mounted = !same_device(&below, found);
	return take_fd(&fd);
}

/* Open the user's tmpfs; -1 and errno on failure: ENOENT if nothing is mounted there, EPERM if something else is. */
static int open_mounted(int base, const char *name, uid_t uid)
{
	struct statx found;
	bool mounted;
	CLEANUP_FD int fd = open_place(base, name, &found, &mounted);

	if (fd < 0)
		return -1;
	if (!mounted || found.stx_uid != uid || !is_tmpfs(&found)) {
		errno = mounted ? EPERM : ENOENT;
		return -1;
	}
	return take_fd(&fd);
}

static void unmount(const char *path)
{
	while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
		;
}

static int mount_on(const char *path, uid_t uid, gid_t gid)
{
	char options[sizeof(BOUNDS) + 64];

	snprintf(options, sizeof(options), BOUNDS ",mode=0700,uid=%" PRIu32 ",gid=%" PRIu32, uid, gid);
	return mount("oci-criu-shim", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options);
}

/* Remove what make_place() has made, and nothing else. */
static int remove_place(int base, const char *name)
{
	struct statx found;
	bool mounted;
	CLEANUP_FD int fd = open_place(base, name, &found, &mounted);

	if (fd < 0)
		return errno == ENOENT ? 0 : -1;
	if (mounted || found.stx_uid != 0) {
		errno = EPERM;
		return -1;
	}
	return unlinkat(base, name, AT_REMOVEDIR);
}

/*
 * Rename a directory that the prolog has not made, such as one of version 0.1: it is left as it is, but must not keep a
 * job from starting.
 */
static int put_aside(int base, const char *name)
{
	CLEANUP_TEXT char *aside = NULL;

	leave_alone(name);
	if (asprintf(&aside, "%s.left.%d", name, getpid()) < 0)
		return -1;
	return renameat(base, name, base, aside);
}

/* Make a directory that is root's and closed: unless something is mounted on it, nobody writes there. */
static int make_place(int base, const char *name)
{
	if (mkdirat(base, name, 0) == 0)
		return 0;
	if (errno != EEXIST)
		return -1;
	if (remove_place(base, name) < 0 && put_aside(base, name) < 0)
		return -1;
	return mkdirat(base, name, 0);
}

static int remove_file(int base, const char *name)
{
	return unlinkat(base, name, 0) < 0 && errno != ENOENT ? -1 : 0;
}

static int write_record(int base, const char *name, uid_t uid, gid_t gid)
{
	CLEANUP_FD int fd = -1;

	if (remove_file(base, name) < 0)
		return -1;
	fd = openat(base, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || dprintf(fd, "%" PRIu32 " %" PRIu32 "\n", uid, gid) < 0)
		return -1;
	return fchmod(fd, 0644);
}

static int make_base_and_record(const char *name, uid_t uid, gid_t gid)
{
	for (int attempt = 0; attempt < MAKE_ATTEMPTS; attempt++) {
		int base = make_base();

		if (base >= 0 && write_record(base, name, uid, gid) == 0)
			return base;
		close_fd(&base);
		if (errno != ENOENT)
			return -1;
	}
	return -1;
}

static int set_marker(int base, const char *name, bool watched)
{
	CLEANUP_FD int fd = -1;

	if (!watched)
		return remove_file(base, name);
	fd = openat(base, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
	return fd < 0 ? -1 : 0;
}

static const char SCRIPT[] =
#include "rundir.sh.h"
	;

/* Run rundir.sh as the user, unless a mount of the user's hides the job's tmpfs: then nothing is done for the user. */
static void work_as(uid_t uid, gid_t gid, int base, const struct names *names, const char *hook, uint32_t seconds)
{
	CLEANUP_FD int mounted = open_mounted(base, names->directory, uid);
	char *const argv[] = {
		"/bin/sh",
		"-p",
		"-c",
		(char *)SCRIPT,
		"oci-criu-shim",
		(char *)hook,
		(char *)names->path,
		(char *)names->job,
		REQUEUED_MARK,
		SCONTROL,
		RUNTIME,
		NULL,
	};
	const struct spawn job = { .path = argv[0], .argv = argv, .uid = uid, .gid = gid };

	if (mounted < 0 && errno == EPERM)
		slurm_error("oci-criu-shim: %s is not the file system that was made for job %s: nothing in it counts",
			    names->path, names->directory);
	else if (mounted >= 0 && spawn_and_wait(&job, seconds) < 0)
		slurm_error("oci-criu-shim: what was to be done for job %s as its user %s", names->directory,
			    errno == ETIMEDOUT ? "took too long, and was ended" : strerror(errno));
}

int rundir_create(uint32_t job, uid_t uid, gid_t gid, bool watched)
{
	const struct names names = names_of(job);
	CLEANUP_FD int base = make_base_and_record(names.record, uid, gid);

	if (base < 0)
		return fail(names.record);
	/* Clear up after an earlier run of the job that had no epilog. */
	work_as(uid, gid, base, &names, "prolog", USER_SECONDS);
	unmount(names.path);
	if (make_place(base, names.directory) < 0 || mount_on(names.path, uid, gid) < 0)
		return fail(names.directory);
	return set_marker(base, names.marker, watched) < 0 ? fail(names.marker) : 0;
}

void rundir_remove(uint32_t job, uid_t uid, gid_t gid, uint32_t seconds)
{
	const struct names names = names_of(job);
	CLEANUP_FD int base = open_base();

	if (base < 0)
		return;
	work_as(uid, gid, base, &names, "epilog", USER_SECONDS + seconds);
	unmount(names.path);
	if (remove_place(base, names.directory) < 0)
		leave_alone(names.directory);
	if (remove_file(base, names.marker) < 0 || remove_file(base, names.record) < 0)
		fail(names.record);
	rmdir(RUN_DIR);
}

int rundir_open(uint32_t job, uid_t uid)
{
	const struct names names = names_of(job);
	CLEANUP_FD int base = open_base();

	return base < 0 ? -1 : open_mounted(base, names.directory, uid);
}

static bool has(int base, const char *name)
{
	return base >= 0 && faccessat(base, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

bool rundir_is_watched(uint32_t job)
{
	const struct names names = names_of(job);
	CLEANUP_FD int base = open_base();

	return has(base, names.marker);
}
