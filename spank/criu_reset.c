/*
 * Loaded into a CRIU that restores: a TCP connection that is not kept comes back as after a reset.
 *
 * CRIU makes its socket anew, unconnected. To a read that would be the end of what the other end had to send, as if all
 * had arrived. So restore/sockets.py has CRIU shut the socket down, as it does for no other that is unconnected: of these
 * only the shutdown for reading is in images (dump_tcp_uncon_shutdown() in criu/sk-inet.c, 4.2). It is for both
 * directions, or for writing alone if the socket was still to be connected. Here it gets the error of a reset: it is
 * connected to this process, and disconnected before anything else comes of that (tcp_disconnect() in net/ipv4/tcp.c).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "criu_socket.h"
#include "util.h"

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static bool is_unconnected_tcp(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t size = sizeof(info);

	return socket_option(fd, SO_PROTOCOL) == IPPROTO_TCP && socket_option(fd, SO_TYPE) == SOCK_STREAM &&
	       getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && info.tcpi_state == TCP_CLOSE;
}

/* The loopback address of a family; of IPv6, what stands for that of IPv4, if lo has no other. */
static union address loopback(int family, bool mapped)
{
	union address found = { .any.sa_family = (sa_family_t)family };

	if (family == AF_INET) {
		found.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	} else if (mapped) {
		found.v6.sin6_addr.s6_addr[10] = found.v6.sin6_addr.s6_addr[11] = 0xff;
		found.v6.sin6_addr.s6_addr[12] = 127;
		found.v6.sin6_addr.s6_addr[15] = 1;
	} else {
		found.v6.sin6_addr = in6addr_loopback;
	}
	return found;
}

/*
 * A socket that listens at `address`, which gets its port. CRIU may give a program the same port meanwhile: all the
 * sockets that it makes share theirs.
 */
static int listen_at(union address *address)
{
	CLEANUP_FD int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const int yes = 1, no = 0;
	socklen_t size = sizeof(*address);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof(yes)) < 0)
		return -1;
	if (address->any.sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
	if (bind(fd, &address->any, size) < 0 || listen(fd, 1) < 0 || getsockname(fd, &address->any, &size) < 0)
		return -1;
	return take_fd(&fd);
}

/* Begin to connect, and disconnect: whether the kernel has let it come to a connection makes no difference. */
static int disconnect(int fd, const union address *address)
{
	const struct sockaddr nobody = { .sa_family = AF_UNSPEC };
	const int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -1;
	if (connect(fd, &address->any, sizeof(*address)) < 0 && errno != EINPROGRESS)
		return -1;
	return connect(fd, &nobody, sizeof(nobody)) < 0 ? -1 : fcntl(fd, F_SETFL, flags);
}

static int reset(int fd)
{
	const int family = socket_option(fd, SO_DOMAIN);
	union address address = loopback(family, false);
	CLEANUP_FD int listener = listen_at(&address);
	struct pollfd state = { .fd = fd };

	if (listener < 0 && family == AF_INET6) {
		address = loopback(family, true);
		listener = listen_at(&address);
	}
	if (listener < 0 || disconnect(fd, &address) < 0)
		return -1;
	if (poll(&state, 1, 0) == 1 && state.revents & POLLERR)
		return 0;
	errno = EPROTO;
	return -1;
}

EXPORTED int shutdown(int fd, int how)
{
	if (how != SHUT_RD && is_unconnected_tcp(fd)) {
		if (reset(fd) < 0)
			return -1;
		if (how == SHUT_WR)
			return 0; /* a connect(2) that was waiting begins again */
	}
	return (int)syscall(SYS_shutdown, fd, how);
}
