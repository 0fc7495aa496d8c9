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
};

/*
 * Start a program in a session of its own, with a fixed environment, /dev/null as standard streams and no other
 * descriptors than those given, all signals default and blocked, so that a program which takes signals by signalfd(2)
 * misses none. A user's may not be traced by him (privileges.h). Returns its pid once the program runs; -1 and errno when
 * it doesn't.
 */
pid_t spawn(const struct spawn *job);

/*
 * The same, to its end: in a pid namespace of its own, so that nothing it has started outlives it, and for so many seconds
 * at most, then all of it is killed. Never waits longer, even for what can't be killed. -1 and errno when it could not
 * be started or had to be killed (ETIMEDOUT); what it exits with says nothing.
 */
int spawn_and_wait(const struct spawn *job, unsigned int seconds);

#endif
