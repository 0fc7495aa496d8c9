/* Leaving root for good. */
#ifndef PRIVILEGES_H
#define PRIVILEGES_H

#include <sys/types.h>

/* Become the user, with no supplementary groups and no capability. Async-signal-safe. -1 and errno on failure. */
int become_user(uid_t uid, gid_t gid);

/*
 * The same, for programs to be run, which may gain no more than any of his: the user's other processes may not trace them,
 * nor look into them. Their real group is not his, but nobody's; a shell has to be told (-p) to leave it at that.
 */
int become_untraced_user(uid_t uid, gid_t gid);

/*
 * Become the user, with the supplementary groups held already and exactly the capabilities of a dump, which last across
 * execve(2). -1 and errno on failure, the process being in no state to go on.
 */
int become_dumper(uid_t uid, gid_t gid);

#endif
