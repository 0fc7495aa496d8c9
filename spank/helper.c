/*
 * helper JOBID STEPID UID GID GROUP [METRICS]: lend the capabilities of a dump to a worker, one for each connection of
 * the job's user to the listening socket, until the lifeline breaks.
 *
 * The helper reads nothing that comes in over the socket. The kernel tells who connects, and the worker's program is
 * fixed here, so a peer can choose nothing but the time. The worker is in the job's control groups; by GROUP, one of
 * them, it recognises the job's processes. Dumps are counted in the directory METRICS, if there is one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <syslog.h>

#include "cgroup.h"
#include "metrics.h"
#include "paths.h"
#include "protocol.h"
#include "signals.h"
#include "util.h"
#include "worker.h"

#define DIRECTORY (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* Dumps are bound by the disk: more at a time gain nothing. Further connections wait in the socket's queue. */
enum { MAX_WORKERS = 4 };

/* A killed process has ended by then, or can't end: it waits for a dead file server, or is frozen with its job. */
enum { END_SECONDS = 10 };

struct helper {
	int listener;
	int signals; /* signalfd(2) of SIGCHLD */
	struct worker_identity identity;
	uint32_t step;
	const char *metrics; /* NULL: nothing is counted */
	struct slot {
		pid_t pid; /* 0: none */
		int reports;
		uint64_t began;
	} workers[MAX_WORKERS];
};

/* Return a worker's slot; NULL if `pid` is no worker. */
static struct slot *slot_of(struct helper *helper, pid_t pid)
{
	for (size_t i = 0; i < MAX_WORKERS; i++)
		if (helper->workers[i].pid == pid)
			return &helper->workers[i];
	return NULL;
}

static struct slot *free_slot(struct helper *helper)
{
	return slot_of(helper, 0);
}

static bool is_job_user(int connection, uid_t uid)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) {
		syslog(LOG_ERR, "SO_PEERCRED: %m");
		return false;
	}
	if (peer.uid != uid)
		syslog(LOG_WARNING, "refused process %d of user %" PRIu32, peer.pid, peer.uid);
	return peer.uid == uid;
}

/* Both ends are -1 if nothing is counted, or can't be: a dump is worth more than a count. */
static void open_reports(const struct helper *helper, int ends[2])
{
	ends[0] = ends[1] = -1;
	if (helper->metrics && pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		syslog(LOG_ERR, "pipe: %m");
}

static void serve(struct helper *helper, struct slot *slot)
{
	CLEANUP_FD int connection = accept4(helper->listener, NULL, NULL, SOCK_CLOEXEC);
	const uint64_t began = nanoseconds();
	int reports[2];
	pid_t pid;

	if (connection < 0 || !is_job_user(connection, helper->identity.uid))
		return;
	open_reports(helper, reports);
	if ((pid = fork()) == 0)
		worker_run(&helper->identity, connection, reports[1]);
	close_fd(&reports[1]);
	if (pid < 0) {
		syslog(LOG_ERR, "fork: %m");
		close_fd(&reports[0]);
		return;
	}
	*slot = (struct slot){ .pid = pid, .reports = reports[0], .began = began };
}

static void reap(struct helper *helper)
{
	struct slot *slot;
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
		if (!(slot = slot_of(helper, pid)))
			continue;
		if (slot->reports >= 0)
			metrics_add(helper->metrics, slot->reports, nanoseconds() - slot->began);
		close_fd(&slot->reports);
		slot->pid = 0;
	}
}

/*
 * Kill what workers have left behind and, if asked, the workers. CRIU, and programs that CRIU runs, may outlive their
 * worker; they may hold capabilities, and have process groups and sessions of their own. They become children of this
 * process, their subreaper, and so do their own children once they are killed. A child's pid is nobody else's until the
 * child is reaped, here.
 */
static void kill_children(struct helper *helper, bool workers)
{
	CLEANUP_FILE FILE *children = fopen("/proc/thread-self/children", "re");
	pid_t pid;

	if (!children)
		syslog(LOG_ERR, "/proc/thread-self/children: %m");
	while (children && fscanf(children, "%d", &pid) == 1)
		if (workers || !slot_of(helper, pid))
			kill(pid, SIGKILL);
}

/* Wait until a child has ended; false if none has in that time. */
static bool wait_for_child(struct helper *helper, int milliseconds)
{
	struct pollfd child = { .fd = helper->signals, .events = POLLIN };

	if (poll(&child, 1, milliseconds) <= 0)
		return false;
	while (signals_next(helper->signals))
		;
	return true;
}

static bool has_children(void)
{
	siginfo_t info;

	return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

static void end_all(struct helper *helper)
{
	const uint64_t limit = nanoseconds() + END_SECONDS * NANOSECONDS;

	while (has_children()) {
		const uint64_t now = nanoseconds();

		kill_children(helper, true);
		if (now >= limit || !wait_for_child(helper, (int)((limit - now) / 1000000) + 1)) {
			syslog(LOG_ERR, "a worker, or what it has left behind, has not ended in %d s", END_SECONDS);
			return;
		}
		reap(helper);
	}
}

static void serve_all(struct helper *helper, int lifeline)
{
	struct pollfd events[] = {
		{ .fd = lifeline, .events = POLLIN },
		{ .fd = helper->signals, .events = POLLIN },
		{ .fd = helper->listener, .events = POLLIN },
	};

	while (poll(events, COUNT(events), -1) > 0 && !events[0].revents) {
		struct slot *slot;

		wait_for_child(helper, 0);
		reap(helper);
		kill_children(helper, false);
		slot = free_slot(helper);
		if (slot && events[2].revents)
			serve(helper, slot);
		events[2].fd = free_slot(helper) ? helper->listener : -1;
	}
}

/* Remove an entry of the user's directory, without following it anywhere. */
static void remove_socket(const struct helper *helper)
{
	CLEANUP_TEXT char *path = NULL;
	CLEANUP_TEXT char *name = NULL;
	CLEANUP_FD int directory = -1;

	if (asprintf(&path, JOB_DIRECTORY, helper->identity.job) < 0 ||
	    asprintf(&name, HELPER_SOCKET, helper->step) < 0)
		return;
	if ((directory = open(path, DIRECTORY)) >= 0)
		unlinkat(directory, name, 0);
}

/* Count the job's control groups that a worker is to enter. lseek(2) tells which descriptors aren't open. */
static size_t count_hierarchies(void)
{
	size_t count = 0;

	while (count < MAX_HIERARCHIES && (lseek(GROUPS_FD + (int)count, 0, SEEK_CUR) >= 0 || errno != EBADF))
		count++;
	return count;
}

static bool parse_arguments(int argc, char **argv, struct helper *helper)
{
	struct worker_identity *identity = &helper->identity;

	helper->metrics = argc == 7 && *argv[6] == '/' ? argv[6] : NULL;
	if (argc != (helper->metrics ? 7 : 6))
		return false;
	identity->group = argv[5];
	identity->hierarchies = count_hierarchies();
	identity->helper = getpid();
	return parse_number(argv[1], UINT32_MAX, &identity->job) && parse_number(argv[2], UINT32_MAX, &helper->step) &&
	       parse_number(argv[3], UINT32_MAX - 1, &identity->uid) &&
	       parse_number(argv[4], UINT32_MAX - 1, &identity->gid) && strchr(identity->group, ':') &&
	       identity->hierarchies > 0;
}

/* Draw the step's key. Only this process and its workers have it, and it is gone with the step. */
static bool draw_key(char key[KEY_SIZE])
{
	unsigned char bytes[KEY_BYTES];

	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		return false;
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(key + 2 * i, 3, "%02x", bytes[i]);
	return true;
}

int main(int argc, char **argv)
{
	CLEANUP_FD int lifeline = LIFELINE_FD;
	CLEANUP_FD int listener = LISTENER_FD;
	CLEANUP_FD int signals = -1;
	struct helper helper = { .listener = listener };

	openlog("oci-criu-shim-helper", LOG_PID | LOG_PERROR, LOG_AUTHPRIV);
	if (!parse_arguments(argc, argv, &helper)) {
		syslog(LOG_ERR, "usage: helper JOBID STEPID UID GID GROUP [METRICS]");
		return EXIT_FAILURE;
	}
	if ((helper.signals = signals = signals_open((const int[]){ SIGCHLD }, 1)) < 0 ||
	    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 || !draw_key(helper.identity.key)) {
		syslog(LOG_ERR, "%m");
		return EXIT_FAILURE;
	}
	serve_all(&helper, lifeline);
	end_all(&helper);
	cgroup_remove_job(helper.identity.group);
	remove_socket(&helper);
	close_range(GROUPS_FD, GROUPS_FD + (unsigned int)helper.identity.hierarchies - 1, 0);
	return EXIT_SUCCESS;
}
