/* The run directory of the node, and that of each job in it: a small tmpfs of its user's. */
#ifndef RUNDIR_H
#define RUNDIR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Make the job's directory, empty, and beside it a record of whose it is; with a marker if the job is to be watched. -1 and a
 * logged error on failure.
 */
int rundir_create(uint32_t job, uid_t uid, gid_t gid, bool watched);

/* Remove them. What was not made by rundir_create() is logged and left. */
void rundir_remove(uint32_t job, uid_t uid, gid_t gid);

/* A descriptor (O_PATH) of the job's directory, -1 and errno if there is none of this user: ENOENT where there is nothing. */
int rundir_open(uint32_t job, uid_t uid);

bool rundir_is_watched(uint32_t job);

#endif
