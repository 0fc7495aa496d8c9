/*
 * proxy CHILD: be, in Slurm's eyes, the task of a container that Slurm creates and starts by the process CHILD.
 *
 * It hands its standard streams to the runtime that connects, passes signals on to it, and ends with the exit status
 * that the runtime tells. All of this runs as the job's user, and the socket is in the job's directory.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "protocol.h"
#include "signals.h"
#include "util.h"

enum { STREAMS = 3, UNKNOWN = -1 };

static const int SIGNALS[] = {
	SIGCHLD, SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGUSR1,  SIGUSR2,
	SIGALRM, SIGCONT, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH, SIGURG,
};

struct proxy {
	int listener, signals, runtime; /* -1: none yet, or none any more */
	pid_t child, runtime_pid;
	int child_status; /* of wait(2) */
	int status;	  /* told by the runtime */
	bool child_ended, had_runtime;
};

static int say(const char *text)
{
	dprintf(STDERR_FILENO, "oci-criu-shim: %s\n", text);
	return EXIT_FAILURE;
}

static int send_streams(int connection)
{
	char control[CMSG_SPACE(STREAMS * sizeof(int))] = { 0 };
	struct iovec text = { .iov_base = "s", .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &text, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(STREAMS * sizeof(int));
	memcpy(CMSG_DATA(header), (const int[]){ 0, 1, 2 }, STREAMS * sizeof(int));
	return sendmsg(connection, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static void forget(int *fd)
{
	close_fd(fd);
	*fd = -1;
}

/* Take the first of the user's processes that connects for the runtime, which has the streams from now on. */
static void accept_runtime(struct proxy *proxy)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);
	int connection = accept4(proxy->listener, NULL, NULL, SOCK_CLOEXEC);

	if (connection < 0 || getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 ||
	    peer.uid != geteuid() || send_streams(connection) < 0) {
		close_fd(&connection);
		return;
	}
	proxy->runtime = connection;
	proxy->runtime_pid = peer.pid;
	proxy->had_runtime = true;
	forget(&proxy->listener);
}

/* Read one byte, the exit status; there is none if the runtime is gone without a word. */
static void hear_runtime(struct proxy *proxy)
{
	unsigned char status;

	if (recv(proxy->runtime, &status, 1, 0) == 1)
		proxy->status = status;
	forget(&proxy->runtime);
}

static void pass_on(const struct proxy *proxy, int number)
{
	if (proxy->runtime >= 0)
		kill(proxy->runtime_pid, number); /* it lives: the connection is open */
	else if (!proxy->had_runtime && !proxy->child_ended)
		kill(proxy->child, number);
}

static void read_signals(struct proxy *proxy)
{
	int number;

	while ((number = signals_next(proxy->signals)))
		if (number != SIGCHLD)
			pass_on(proxy, number);
	if (!proxy->child_ended && waitpid(proxy->child, &proxy->child_status, WNOHANG) == proxy->child)
		proxy->child_ended = true;
}

static int stand_in(struct proxy *proxy)
{
	/* The task ends when both Slurm's code and the runtime have ended; the runtime may still be clearing up. */
	while (!proxy->child_ended || proxy->runtime >= 0) {
		struct pollfd events[] = {
			{ .fd = proxy->signals, .events = POLLIN },
			{ .fd = proxy->listener, .events = POLLIN },
			{ .fd = proxy->runtime, .events = POLLIN },
		};

		if (poll(events, COUNT(events), -1) < 0 && errno != EINTR)
			return -1;
		if (events[0].revents)
			read_signals(proxy);
		if (events[1].revents)
			accept_runtime(proxy);
		if (events[2].revents)
			hear_runtime(proxy);
	}
	return 0;
}

/* Return what a shell would return for Slurm's code: no runtime ever came. */
static int end_of_child(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	struct proxy proxy = { .listener = PROXY_LISTENER_FD, .runtime = -1, .status = UNKNOWN };
	uint32_t child;

	if (argc != 2 || !parse_number(argv[1], INT32_MAX, &child))
		return say("usage: proxy CHILD");
	proxy.child = (pid_t)child;
	if ((proxy.signals = signals_open(SIGNALS, COUNT(SIGNALS))) < 0 || stand_in(&proxy) < 0)
		return say(strerror(errno));
	if (!proxy.had_runtime)
		return end_of_child(proxy.child_status);
	if (proxy.status == UNKNOWN)
		return say("the container's exit status is not known: its supervisor was killed");
	return proxy.status;
}
