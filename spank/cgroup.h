/* Where slurmstepd's children are placed among Slurm's control groups. */
#ifndef CGROUP_H
#define CGROUP_H

#include <stddef.h>
#include <sys/types.h>

/* Version 1 has a hierarchy for each controller at most; the kernel knows 14. */
enum { MAX_HIERARCHIES = 16 };

/* To write to: a process of one thread that writes "0" to each is in these groups. */
struct groups {
	int fds[MAX_HIERARCHIES];
	size_t count;
};

void cgroup_close(struct groups *groups);

/* Put a child of this slurmstepd, that of an extern step, where Slurm signals it with the step. -1 and errno on failure. */
int cgroup_enter_extern_step(pid_t pid);

/* Take a child of this slurmstepd out of the job's groups, so that the job's signals and limits are not its. */
int cgroup_leave_job(pid_t pid);

/*
 * The job's group as /proc/self/cgroup of this slurmstepd has it, "CONTROLLERS:PATH", for the caller to free: with
 * version 1 that of the freezer, by which Slurm tracks processes. NULL and errno where this is no job's.
 */
char *cgroup_of_job(void);

/*
 * Open the groups of the job's extern step, which last as long as the job, have its limits, and are killed at its end:
 * one of each hierarchy in which the job has any. -1 and errno on failure; those opened are the caller's to close.
 */
int cgroup_open_extern_step(const char *job, struct groups *groups);

/* At an extern step's end: Slurm can't remove its group while there is what cgroup_open_extern_step() had to make. */
void cgroup_forget_extern_step(void);

#endif
