/*
 * Nothing here follows a link that a user made: names in RUN_DIR are made by root only, and what a job's directory holds is
 * touched by processes of its owner only.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <slurm/spank.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "paths.h"
#include "rundir.h"
#include "spawn.h"
#include "util.h"

#define DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* Seconds for removing a job's files: nobody's files may hold up the node. */
enum { CLEAR_TIMEOUT = 60 };

/* Others remove RUN_DIR when it is empty, at any time. */
enum { MAKE_ATTEMPTS = 100 };

struct names {
	char directory[16];
	char marker[24];
};

static struct names names_of(uint32_t job)
{
	struct names names;

	snprintf(names.directory, sizeof(names.directory), "%" PRIu32, job);
	snprintf(names.marker, sizeof(names.marker), "%" PRIu32 ".watch", job);
	return names;
}

static int open_base(void)
{
	return open(RUN_DIR, DIRECTORY);
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

static void run_as(const struct stat *owner, char *const argv[])
{
	const struct spawn job = {
		.path = argv[0],
		.argv = argv,
		.uid = owner->st_uid,
		.gid = owner->st_gid,
	};

	if (spawn_and_wait(&job, CLEAR_TIMEOUT) < 0)
		slurm_error("oci-criu-shim: %s: %s", job.path, strerror(errno));
}

/*
 * What the runtime has left links to. A runtime that writes a checkpoint keeps one to it, stage.<pid>, in its container's
 * directory: where it was killed, that leads to half a checkpoint that nobody else will remove. kept.<number> leads to what
 * there is for the job if it is started again: when it has completed, which is for the runtime to find out, since one that
 * is marked as requeued may have, all that goes.
 */
static const char CLEAR_LINKS[] =
	"for link in \"$1\"/*/stage.*; do"
	" stage=$(readlink -- \"$link\") || continue;"
	" case $stage in */.stage.*) rm -rf --one-file-system -- \"$stage\" ;; esac;"
	" done;"
	"for link in \"$1\"/kept.*; do"
	" kept=$(readlink -- \"$link\") && timeout 30 " RUNTIME " ckpt prune --completed -- \"$kept\";"
	" done";

static int remove_empty(int base, const char *name)
{
	return unlinkat(base, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -1 : 0;
}

/*
 * As the owner, and not across mounts: a user may have mounted what he values in there. That his rm fails to remove the
 * directory itself is as it should be, so its status says nothing.
 */
static int remove_as(const struct stat *owner, int base, const char *name)
{
	CLEANUP_TEXT char *path = NULL;

	if (asprintf(&path, RUN_DIR "/%s", name) < 0)
		return -1;
	char *const clear[] = {"/bin/sh", "-p", "-c", (char *)CLEAR_LINKS, "clear-links", path, NULL};
	char *const rm[] = {"/bin/rm", "-rf", "--one-file-system", "--", path, NULL};
	char *const unlock[] = {"/usr/bin/find", path,	  "-xdev",	"-type", "d",  "!", "-perm",
				"-700",		 "-exec", "/bin/chmod", "u+rwx", "{}", ";", NULL};

	run_as(owner, clear);
	run_as(owner, rm);
	if (remove_empty(base, name) == 0)
		return 0;
	/* The kernel makes directories of mode 0 for overlay file systems, and rm doesn't enter them. */
	run_as(owner, unlock);
	run_as(owner, rm);
	return remove_empty(base, name);
}

/* It is the user's, so he may have mounted something on it, by FUSE: that could be neither removed nor put aside. */
static void uncover(const char *name)
{
	CLEANUP_TEXT char *path = NULL;

	if (asprintf(&path, RUN_DIR "/%s", name) < 0)
		return;
	while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
		;
}

static int remove_directory(int base, const char *name)
{
	CLEANUP_FD int fd = -1;
	struct stat owner;

	uncover(name);
	fd = openat(base, name, DIRECTORY);
	if (fd < 0)
		return errno == ENOENT ? 0 : -1;
	if (fstat(fd, &owner) < 0)
		return -1;
	return remove_as(&owner, base, name);
}

/* What can't be removed is put aside: a user's leftovers must not keep a job from starting. */
static int put_aside(int base, const char *name)
{
	CLEANUP_TEXT char *aside = NULL;

	slurm_error("oci-criu-shim: %s/%s is left from an earlier run and can't be removed: %s", RUN_DIR, name,
		    strerror(errno));
	if (asprintf(&aside, "%s.left.%d", name, getpid()) < 0)
		return -1;
	return renameat(base, name, base, aside);
}

static int make_directory(int base, const char *name)
{
	if (mkdirat(base, name, 0700) == 0)
		return 0;
	if (errno != EEXIST)
		return -1;
	if (remove_directory(base, name) < 0 && put_aside(base, name) < 0)
		return -1;
	return mkdirat(base, name, 0700);
}

static int make_base_and_directory(const char *name)
{
	for (int attempt = 0; attempt < MAKE_ATTEMPTS; attempt++) {
		CLEANUP_FD int base = make_base();
		int kept = base;

		if (base < 0 && errno == ENOENT)
			continue;
		if (base < 0)
			return -1;
		if (make_directory(base, name) == 0) {
			base = -1;
			return kept;
		}
		if (errno != ENOENT)
			return -1;
	}
	return -1;
}

static int give_to(int base, const char *name, uid_t uid, gid_t gid)
{
	CLEANUP_FD int fd = openat(base, name, DIRECTORY);

	if (fd < 0 || fchmod(fd, 0700) < 0)
		return -1;
	return fchown(fd, uid, gid);
}

static int set_marker(int base, const char *name, bool watched)
{
	CLEANUP_FD int fd = -1;

	if (!watched)
		return unlinkat(base, name, 0) < 0 && errno != ENOENT ? -1 : 0;
	fd = openat(base, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
	return fd < 0 ? -1 : 0;
}

int rundir_create(uint32_t job, uid_t uid, gid_t gid, bool watched)
{
	const struct names names = names_of(job);
	CLEANUP_FD int base = make_base_and_directory(names.directory);

	if (base < 0)
		goto fail;
	if (give_to(base, names.directory, uid, gid) < 0)
		goto fail;
	if (set_marker(base, names.marker, watched) < 0)
		goto fail;
	return 0;
fail:
	slurm_error("oci-criu-shim: %s/%s: %s", RUN_DIR, names.directory, strerror(errno));
	return -1;
}

/*
 * A job that was requeued after its checkpoint is eligible at once: slurmctld's batch_requeue_fini() holds it back for the
 * lifetime of a credential, 121 s, unless its begin time lies in the future when its last node's epilog is done.
 * The mark says by what name, since the number of an array's last task is the whole array's too. It may say besides, a line
 * each, which nodes are to be left out and which features they must have: Slurm takes
 * that for pending jobs only. Each by itself: one that is refused must not hold back the others.
 */
static const char UPDATE[] =
	"job=$2; cd -- \"$3\" && [ -f " REQUEUED_MARK " ] && IFS= read -r name <" REQUEUED_MARK ";"
	" case $name in JobId=*) job=$name ;; esac;"
	" \"$1\" update \"$job\" StartTime=now+3seconds; [ -f " REQUEUED_MARK " ] || exit;"
	" while IFS= read -r setting; do"
	" case $setting in ExcNodeList=*|Features=*) \"$1\" update \"$job\" \"$setting\" ;; esac;"
	" done <" REQUEUED_MARK;

static void release_requeued(int base, const struct names *names)
{
	CLEANUP_FD int fd = openat(base, names->directory, DIRECTORY);
	CLEANUP_TEXT char *id = NULL;
	CLEANUP_TEXT char *path = NULL;
	struct stat owner;

	if (fd < 0 || fstat(fd, &owner) < 0 || !owner.st_uid)
		return;
	if (faccessat(fd, REQUEUED_MARK, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	if (asprintf(&id, "JobId=%s", names->directory) < 0)
		return;
	if (asprintf(&path, RUN_DIR "/%s", names->directory) < 0)
		return;
	char *const update[] = {"/bin/sh", "-p", "-c", (char *)UPDATE, "update", SCONTROL, id, path, NULL};

	run_as(&owner, update);
}

void rundir_remove(uint32_t job)
{
	const struct names names = names_of(job);
	CLEANUP_FD int base = open_base();

	if (base < 0)
		return;
	release_requeued(base, &names);
	if (set_marker(base, names.marker, false) < 0 || remove_directory(base, names.directory) < 0)
		slurm_error("oci-criu-shim: %s/%s: %s", RUN_DIR, names.directory, strerror(errno));
	rmdir(RUN_DIR);
}

int rundir_open(uint32_t job, uid_t uid)
{
	const struct names names = names_of(job);
	CLEANUP_FD int base = open_base();
	CLEANUP_FD int fd = base < 0 ? -1 : openat(base, names.directory, DIRECTORY);
	struct stat owner;
	int opened = fd;

	if (fd < 0 || fstat(fd, &owner) < 0)
		return -1;
	if (owner.st_uid != uid) {
		errno = EPERM;
		return -1;
	}
	fd = -1;
	return opened;
}

bool rundir_is_watched(uint32_t job)
{
	const struct names names = names_of(job);
	CLEANUP_FD int base = open_base();

	return base >= 0 && faccessat(base, names.marker, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}
