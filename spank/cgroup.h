/* Where slurmstepd's children are placed among Slurm's control groups. */
#ifndef CGROUP_H
#define CGROUP_H

#include <sys/types.h>

/* Put a child of this slurmstepd, that of an extern step, where Slurm signals it with the step. -1 and errno on failure. */
int cgroup_enter_extern_step(pid_t pid);

/* Take a child of this slurmstepd out of the job's groups, so that the job's signals and limits are not its. */
int cgroup_leave_job(pid_t pid);

#endif
