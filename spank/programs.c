#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cgroup.h"
#include "lifeline.h"
#include "paths.h"
#include "programs.h"
#include "protocol.h"
#include "rundir.h"
#include "spawn.h"
#include "util.h"

enum { NUMBER_SIZE = 12 };

/* The decimal arguments of both programs. */
struct numbers {
	char job[NUMBER_SIZE], step[NUMBER_SIZE], uid[NUMBER_SIZE], gid[NUMBER_SIZE];
};

static struct numbers numbers_of(const struct step *step)
{
	struct numbers numbers;

	snprintf(numbers.job, NUMBER_SIZE, "%" PRIu32, step->job);
	snprintf(numbers.step, NUMBER_SIZE, "%" PRIu32, step->id);
	snprintf(numbers.uid, NUMBER_SIZE, "%" PRIu32, step->uid);
	snprintf(numbers.gid, NUMBER_SIZE, "%" PRIu32, step->gid);
	return numbers;
}

static int fail(const struct step *step, const char *program)
{
	slurm_error("oci-criu-shim: %s of job %" PRIu32 ": %s", program, step->job, strerror(errno));
	lifeline_cut();
	return -1;
}

int watcher_start(const struct step *step)
{
	struct numbers numbers = numbers_of(step);
	char *const argv[] = { WATCHER_PROGRAM, numbers.job, numbers.uid, numbers.gid, NULL };
	CLEANUP_FD int lifeline = -1;
	CLEANUP_FD int killed = -1;
	pid_t pid;

	if (lifeline_is_held() || !rundir_is_watched(step->job))
		return 0;
	if ((killed = cgroup_watch_kill()) < 0 || (lifeline = lifeline_open()) < 0)
		goto fail;
	const int fds[] = { lifeline, killed };
	const struct spawn job = { .path = WATCHER_PROGRAM, .argv = argv, .fds = fds, .fd_count = COUNT(fds) };
	if ((pid = spawn(&job)) < 0 || cgroup_enter_extern_step(pid) < 0)
		goto fail;
	return 0;
fail:
	return fail(step, WATCHER_PROGRAM);
}

static int bind_and_listen(int fd, int directory, uint32_t step)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char name[sizeof("helper..sock") + NUMBER_SIZE];

	snprintf(name, sizeof(name), HELPER_SOCKET, step);
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", directory, name);
	if (unlinkat(directory, name, 0) < 0 && errno != ENOENT)
		return -1;
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return -1;
	return listen(fd, SOMAXCONN);
}

/*
 * The directory is the user's. This thread has the user's file system uid and gid for all that it does in there, so
 * that it touches nothing that the user couldn't touch, whatever the user has put there.
 */
static int listening_socket(const struct step *step)
{
	CLEANUP_FD int directory = rundir_open(step->job, step->uid);
	CLEANUP_FD int fd = -1;
	int rc;

	if (directory < 0)
		return -1;
	if ((fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) < 0)
		return -1;
	setfsgid(step->gid);
	setfsuid(step->uid);
	rc = bind_and_listen(fd, directory, step->id);
	setfsuid(geteuid());
	setfsgid(getegid());
	return rc < 0 ? -1 : take_fd(&fd);
}

int helper_start(const struct step *step, const char *metrics)
{
	struct numbers numbers = numbers_of(step);
	CLEANUP_TEXT char *group = cgroup_of_job();
	char *const argv[] = {
		HELPER_PROGRAM, numbers.job, numbers.step, numbers.uid, numbers.gid, group, (char *)metrics, NULL,
	};
	__attribute__((cleanup(cgroup_close))) struct groups groups = { .count = 0 };
	CLEANUP_FD int lifeline = -1;
	CLEANUP_FD int listener = -1;
	int fds[GROUPS_FD - LIFELINE_FD + MAX_HIERARCHIES];
	pid_t pid;

	if (lifeline_is_held())
		return 0;
	if (!group || cgroup_open_job(group, &groups) < 0)
		return fail(step, "the control group");
	if ((lifeline = lifeline_open()) < 0)
		goto fail;
	if ((listener = listening_socket(step)) < 0)
		return fail(step, "the socket of the helper");
	fds[0] = lifeline;
	fds[1] = listener;
	memcpy(fds + 2, groups.fds, sizeof(groups.fds));
	const struct spawn job = {
		.path = HELPER_PROGRAM,
		.argv = argv,
		.fds = fds,
		.fd_count = 2 + groups.count,
		.groups = step->groups,
		.group_count = (size_t)step->group_count,
	};
	if ((pid = spawn(&job)) < 0 || cgroup_leave_job(pid) < 0)
		goto fail;
	return 0;
fail:
	return fail(step, HELPER_PROGRAM);
}
