/* The run directory of the node, and that of each job in it. */
#ifndef RUNDIR_H
#define RUNDIR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Make the job's directory, empty; with a marker beside it if the job is to be watched. -1 and a logged error on failure. */
int rundir_create(uint32_t job, uid_t uid, gid_t gid, bool watched);

/* Remove them. What can't be removed is logged and left. */
void rundir_remove(uint32_t job);

/* A descriptor of the job's directory, -1 and errno if there is none of this user. */
int rundir_open(uint32_t job, uid_t uid);

bool rundir_is_watched(uint32_t job);

#endif
