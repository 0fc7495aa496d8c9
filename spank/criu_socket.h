/* What the libraries that are loaded into CRIU ask of sockets. */
#ifndef CRIU_SOCKET_H
#define CRIU_SOCKET_H

#include <sys/socket.h>

/* An option of SOL_SOCKET that is a number; -1 if there is none. */
static inline int socket_option(int fd, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	getsockopt(fd, SOL_SOCKET, name, &value, &size);
	return value;
}

#endif
