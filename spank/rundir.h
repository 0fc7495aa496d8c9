/* The node's run directory, and in it each job's: a small tmpfs that is the job user's. */
#ifndef RUNDIR_H
#define RUNDIR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Make the job's directory, empty, and beside it a record of its owner; and a marker, if the job is to be watched. -1
 * and a logged error on failure.
 */
int rundir_create(uint32_t job, uid_t uid, gid_t gid, bool watched);

/*
 * Remove the job's directory, record and marker. Log and leave what rundir_create() did not make. What is to be done for
 * the user may take `seconds` more than otherwise.
 */
void rundir_remove(uint32_t job, uid_t uid, gid_t gid, uint32_t seconds);

/* Open the job's directory (O_PATH). -1 and errno if there is none of this user; ENOENT if there is nothing. */
int rundir_open(uint32_t job, uid_t uid);

bool rundir_is_watched(uint32_t job);

#endif
