/* Leave root for good. */
#ifndef PRIVILEGES_H
#define PRIVILEGES_H

#include <sys/types.h>

/* Become the user, with no supplementary groups and no capability. Async-signal-safe. -1 and errno on failure. */
int become_user(uid_t uid, gid_t gid);

/*
 * Become the user, with no supplementary groups and no capability, to execute a program: it may gain no more than any
 * program of the user, whose other processes may neither trace it nor look into it. Its real group is nobody's, not the
 * user's; a shell has to be told (-p) to leave it at that. Async-signal-safe. -1 and errno on failure.
 */
int become_untraced_user(uid_t uid, gid_t gid);

/*
 * Become the user, with the supplementary groups held already and exactly the capabilities of a dump, which last across
 * execve(2). -1 and errno on failure; the process must not go on then.
 */
int become_dumper(uid_t uid, gid_t gid);

#endif
