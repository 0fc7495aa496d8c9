/* A container as Slurm's task, if oci.conf has RunTimeCreate and RunTimeStart. */
#ifndef TASK_H
#define TASK_H

#include <slurm/spank.h>

/*
 * In the task's process, as the user. Slurm's own code for these two forms drops the container's output, waits for the
 * end of `create` until nobody holds its standard output, ends with the status of `start`, and dies of the first
 * SIGTERM (src/slurmd/slurmstepd/container.c of Slurm 24.11). So that code goes on in a child, and this process becomes
 * the proxy program, which hands the task's streams to the runtime and is to Slurm what the container is.
 */
int task_stand_in(spank_t sp);

#endif
