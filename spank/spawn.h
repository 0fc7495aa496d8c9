/* The one place that starts programs. */
#ifndef SPAWN_H
#define SPAWN_H

#include <stddef.h>
#include <sys/types.h>

struct spawn {
	const char *path;
	char *const *argv;
	const int *fds; /* become 3, 4, … of the program */
	size_t fd_count;
	const gid_t *groups; /* supplementary groups of the program; NULL: as they are */
	size_t group_count;
	uid_t uid; /* 0: stays root */
	gid_t gid;
	unsigned int timeout; /* seconds until SIGALRM ends it; 0: none */
};

/*
 * Start a program in a session of its own, with a fixed environment, /dev/null as standard streams and no other
 * descriptors than those given, all signals default and all but SIGALRM blocked, so that a program which takes signals
 * by signalfd(2) misses none. Returns its pid once the program runs; -1 and errno when it doesn't.
 */
pid_t spawn(const struct spawn *job);

#endif
