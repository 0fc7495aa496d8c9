/*
 * Loaded into CRIU, as criu_restart.c is: a dump that would leave out what waits in a Unix socket fails.
 *
 * CRIU takes an empty datagram for the end of what is there to read, and leaves out what follows it (dump_sk_queue() in
 * criu/sk-queue.c, 4.2). An error makes it give up, and the processes run on.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "criu_socket.h"
#include "util.h"

/* Whether nothing was read from a Unix socket because a message is empty, and not because the other end has closed. */
static bool is_empty(int fd)
{
	struct pollfd end = { .fd = fd, .events = POLLRDHUP };

	if (socket_option(fd, SO_DOMAIN) != AF_UNIX)
		return false;
	switch (socket_option(fd, SO_TYPE)) {
	case SOCK_DGRAM:
		return true;
	case SOCK_SEQPACKET:
		return poll(&end, 1, 0) == 0;
	default:
		return false;
	}
}

EXPORTED ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	ssize_t size = syscall(SYS_recvmsg, fd, message, flags);

	if (size != 0 || !(flags & MSG_PEEK) || !is_empty(fd))
		return size;
	errno = ENODATA;
	return -1;
}
