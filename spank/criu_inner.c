/*
 * Loaded into a CRIU that restores: a TCP connection within the container gets the ends that restore/inner.py has
 * connected anew.
 *
 * CRIU makes a socket, and binds it to the address that stands for an end. Here that end is asked for, and takes the
 * socket's place, before CRIU gives it the options that it had (open_inet_sk() in criu/sk-inet.c, 4.2).
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "util.h"

static const char VARIABLE[] = "OCI_CRIU_SHIM_ENDS"; /* the name of a socket in the abstract namespace */

/* The number of the end that an address stands for; -1 if it is an address. */
static int end_of(const struct sockaddr *address)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
	const uint8_t *place = (const uint8_t *)&v4->sin_addr;
	in_port_t port = v4->sin_port;

	if (address->sa_family == AF_INET6) {
		if (!IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
			return -1;
		place = v6->sin6_addr.s6_addr + 12;
		port = v6->sin6_port;
	} else if (address->sa_family != AF_INET) {
		return -1;
	}
	return port == htons(1) && place[0] == 0xff && place[1] == 0xff ? place[2] << 8 | place[3] : -1;
}

static int ask(const char *name, uint16_t number)
{
	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t length = strlen(name);

	if (length >= sizeof(address.sun_path))
		return -1;
	memcpy(address.sun_path + 1, name, length);
	length += offsetof(struct sockaddr_un, sun_path) + 1;
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, (socklen_t)length) < 0 ||
	    send(fd, &number, sizeof(number), MSG_NOSIGNAL) != sizeof(number))
		return -1;
	return take_fd(&fd);
}

/* The end that is sent; -1 if none is. */
static int receive(int fd)
{
	char byte;
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec data = { &byte, sizeof(byte) };
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	const struct cmsghdr *header;
	int end = -1;

	if (recvmsg(fd, &message, MSG_CMSG_CLOEXEC) != sizeof(byte))
		return -1;
	header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
		memcpy(&end, CMSG_DATA(header), sizeof(end));
	return end;
}

EXPORTED int bind(int fd, const struct sockaddr *address, socklen_t size)
{
	const char *name = getenv(VARIABLE);
	const int number = name ? end_of(address) : -1;

	if (number >= 0) {
		CLEANUP_FD int server = ask(name, (uint16_t)number);
		CLEANUP_FD int end = server < 0 ? -1 : receive(server);

		if (end >= 0)
			return dup2(end, fd) < 0 ? -1 : 0;
		errno = ENOTCONN;
		return -1;
	}
	return (int)syscall(SYS_bind, fd, address, size);
}
