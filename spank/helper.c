/*
 * helper JOBID STEPID UID GID [METRICS]: lends the capabilities of a dump to a worker, one for each connection of the job's user to the
 * listening socket, until the lifeline breaks.
 *
 * The helper reads nothing that comes in over the socket. Who connects is told by the kernel, and what the worker runs is
 * fixed here; so all that a peer can choose is when. Dumps are counted in the directory METRICS, if there is one.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>

#include "metrics.h"
#include "paths.h"
#include "protocol.h"
#include "util.h"
#include "worker.h"

#define DIRECTORY (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* A dump is bound by the disk; more at a time gain nothing, and the others wait in the socket's queue. */
enum { MAX_WORKERS = 4 };

struct helper {
	int listener;
	struct worker_identity identity;
	uint32_t step;
	const char *metrics; /* NULL: nothing is counted */
	struct slot {
		pid_t pid; /* 0: none */
		int reports;
		uint64_t began;
	} workers[MAX_WORKERS];
};

static struct slot *free_slot(struct helper *helper)
{
	for (size_t i = 0; i < MAX_WORKERS; i++)
		if (!helper->workers[i].pid)
			return &helper->workers[i];
	return NULL;
}

static uint64_t nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
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

/* Both -1 where nothing is counted, or can't be: a dump is worth more. */
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
	*slot = (struct slot){.pid = pid, .reports = reports[0], .began = began};
}

/* A worker's session has its pid; nothing that holds a capability outlives its worker. */
static void end_session(pid_t worker)
{
	kill(-worker, SIGKILL);
	kill(worker, SIGKILL);
}

static void reap(struct helper *helper, int options)
{
	siginfo_t info;

	for (struct slot *slot = helper->workers; slot < helper->workers + MAX_WORKERS; slot++) {
		info.si_pid = 0;
		if (!slot->pid || waitid(P_PID, (id_t)slot->pid, &info, WEXITED | WNOWAIT | options) < 0)
			continue;
		if (info.si_pid != slot->pid)
			continue;
		end_session(slot->pid);
		waitpid(slot->pid, NULL, 0);
		if (slot->reports >= 0)
			metrics_add(helper->metrics, slot->reports, nanoseconds() - slot->began);
		close_fd(&slot->reports);
		slot->pid = 0;
	}
}

static void end_workers(struct helper *helper)
{
	for (size_t i = 0; i < MAX_WORKERS; i++)
		if (helper->workers[i].pid)
			end_session(helper->workers[i].pid);
	reap(helper, 0);
}

static int open_signals(void)
{
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	/* All signals have been blocked since before this program began, see spawn.h. */
	return signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int serve_all(struct helper *helper, int lifeline)
{
	CLEANUP_FD int signals = open_signals();
	struct signalfd_siginfo info;
	struct pollfd events[] = {
		{.fd = lifeline, .events = POLLIN},
		{.fd = signals, .events = POLLIN},
		{.fd = helper->listener, .events = POLLIN},
	};

	if (signals < 0)
		return -1;
	while (poll(events, COUNT(events), -1) > 0 && !events[0].revents) {
		struct slot *slot;

		while (read(signals, &info, sizeof(info)) == sizeof(info))
			;
		reap(helper, WNOHANG);
		slot = free_slot(helper);
		if (slot && events[2].revents)
			serve(helper, slot);
		events[2].fd = free_slot(helper) ? helper->listener : -1;
	}
	return 0;
}

/* An entry in the user's directory, which removing doesn't follow wherever it points. */
static void remove_socket(const struct helper *helper)
{
	CLEANUP_TEXT char *path = NULL;
	CLEANUP_TEXT char *name = NULL;
	CLEANUP_FD int directory = -1;

	if (asprintf(&path, RUN_DIR "/%" PRIu32, helper->identity.job) < 0 ||
	    asprintf(&name, HELPER_SOCKET, helper->step) < 0)
		return;
	if ((directory = open(path, DIRECTORY)) >= 0)
		unlinkat(directory, name, 0);
}

static bool parse_arguments(int argc, char **argv, struct helper *helper)
{
	struct worker_identity *identity = &helper->identity;

	helper->metrics = argc == 6 && *argv[5] == '/' ? argv[5] : NULL;
	return argc == (helper->metrics ? 6 : 5) && parse_number(argv[1], UINT32_MAX, &identity->job) &&
	       parse_number(argv[2], UINT32_MAX, &helper->step) &&
	       parse_number(argv[3], UINT32_MAX - 1, &identity->uid) &&
	       parse_number(argv[4], UINT32_MAX - 1, &identity->gid);
}

int main(int argc, char **argv)
{
	CLEANUP_FD int lifeline = LIFELINE_FD;
	CLEANUP_FD int listener = LISTENER_FD;
	struct helper helper = {.listener = listener};
	int rc;

	openlog("oci-criu-shim-helper", LOG_PID | LOG_PERROR, LOG_AUTHPRIV);
	if (!parse_arguments(argc, argv, &helper)) {
		syslog(LOG_ERR, "usage: helper JOBID STEPID UID GID [METRICS]");
		return EXIT_FAILURE;
	}
	if ((rc = serve_all(&helper, lifeline)) < 0)
		syslog(LOG_ERR, "%m");
	end_workers(&helper);
	remove_socket(&helper);
	return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
