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
 * descriptors than those given. All signals are at their defaults and blocked, so that a program which takes signals by
 * signalfd(2) misses none. A user's program can't be traced by the user (privileges.h). Return its pid once the program
 * runs; -1 and errno if it doesn't.
 */
pid_t spawn(const struct spawn *job);

/*
 * Run a program as spawn() does, in a pid namespace of its own, so that nothing that it has started outlives it, until
 * it ends or closes its descriptor 3, for which `fds` has none. After so many seconds all of it is killed, by a child
 * that nobody has to wait for. Never wait longer, even for what can't be killed. -1 and errno if it could not be started
 * or had to be killed before (ETIMEDOUT); its exit status is not looked at.
 */
int spawn_and_wait(const struct spawn *job, unsigned int seconds);

#endif
