/*
 * Loaded into CRIU, as criu_restart.c is: a socket of MPTCP is dumped as one of TCP.
 *
 * CRIU knows no MPTCP. But the kernel lists the TCP socket that such a one begins with under the same number
 * (mptcp_subflow_create_socket() in net/mptcp/subflow.c), and that is what CRIU looks for once it takes the protocol for
 * TCP. Options that MPTCP does not have are as if they had not been set.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "util.h"

static bool is_mptcp(int fd)
{
	int protocol = -1;
	socklen_t size = sizeof(protocol);

	return syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 && protocol == IPPROTO_MPTCP;
}

EXPORTED int getsockopt(int fd, int level, int name, void *restrict value, socklen_t *restrict size)
{
	const int tcp = IPPROTO_TCP;
	long rc = syscall(SYS_getsockopt, fd, level, name, value, size);

	if (level == SOL_SOCKET && name != SO_PROTOCOL)
		return (int)rc;
	if (level == SOL_SOCKET && rc == 0 && *size == sizeof(tcp) && is_mptcp(fd))
		memcpy(value, &tcp, sizeof(tcp));
	if (level != SOL_SOCKET && rc < 0 && errno == EOPNOTSUPP && is_mptcp(fd)) {
		memset(value, 0, *size);
		return 0;
	}
	return (int)rc;
}
