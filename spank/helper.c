/*
 * helper JOBID STEPID UID GID: lends the capabilities of a dump to a worker, one for each connection of the job's user to the
 * listening socket, until the lifeline breaks.
 *
 * The helper reads nothing that comes in over the socket. Who connects is told by the kernel, and what the worker runs is
 * fixed here; so all that a peer can choose is when.
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
	pid_t workers[MAX_WORKERS]; /* 0: none */
};

static pid_t *free_slot(struct helper *helper)
{
	for (size_t i = 0; i < MAX_WORKERS; i++)
		if (!helper->workers[i])
			return &helper->workers[i];
	return NULL;
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

static void serve(struct helper *helper, pid_t *slot)
{
	CLEANUP_FD int connection = accept4(helper->listener, NULL, NULL, SOCK_CLOEXEC);
	pid_t pid;

	if (connection < 0 || !is_job_user(connection, helper->identity.uid))
		return;
	if ((pid = fork()) < 0)
		syslog(LOG_ERR, "fork: %m");
	else if (pid == 0)
		worker_run(&helper->identity, connection);
	else
		*slot = pid;
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

	for (size_t i = 0; i < MAX_WORKERS; i++) {
		info.si_pid = 0;
		if (!helper->workers[i] || waitid(P_PID, (id_t)helper->workers[i], &info, WEXITED | WNOWAIT | options) < 0)
			continue;
		if (info.si_pid != helper->workers[i])
			continue;
		end_session(helper->workers[i]);
		waitpid(helper->workers[i], NULL, 0);
		helper->workers[i] = 0;
	}
}

static void end_workers(struct helper *helper)
{
	for (size_t i = 0; i < MAX_WORKERS; i++)
		if (helper->workers[i])
			end_session(helper->workers[i]);
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
		pid_t *slot;

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

	return argc == 5 && parse_number(argv[1], UINT32_MAX, &identity->job) &&
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
		syslog(LOG_ERR, "usage: helper JOBID STEPID UID GID");
		return EXIT_FAILURE;
	}
	if ((rc = serve_all(&helper, lifeline)) < 0)
		syslog(LOG_ERR, "%m");
	end_workers(&helper);
	remove_socket(&helper);
	return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
