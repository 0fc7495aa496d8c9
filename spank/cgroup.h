/* The places of slurmstepd's children among Slurm's control groups. */
#ifndef CGROUP_H
#define CGROUP_H

#include <stddef.h>
#include <sys/types.h>

/* Version 1 has at most one hierarchy for each controller; the kernel knows 14. */
enum { MAX_HIERARCHIES = 16 };

/* Open files of groups: a process of one thread enters the groups by writing "0" to each. */
struct groups {
	int fds[MAX_HIERARCHIES];
	size_t count;
};

void cgroup_close(struct groups *groups);

/*
 * Put a child of this slurmstepd, an extern step's, into the group in which Slurm signals it with the step. -1 and
 * errno on failure.
 */
int cgroup_enter_extern_step(pid_t pid);

/*
 * Return a descriptor that reads something once this slurmstepd, an extern step's, has killed the processes of its step
 * by `cgroup.kill`, as since 25.05 with version 2. That does not reach slurmstepd's children in its own leaf, and yet
 * the step is not over before they have ended. -1 and errno on failure.
 */
int cgroup_watch_kill(void);

/*
 * Take a child of this slurmstepd out of the job's groups, so that the job's signals and limits don't apply to it. -1
 * and errno on failure.
 */
int cgroup_leave_job(pid_t pid);

/*
 * Return the job's group as /proc/self/cgroup of this slurmstepd names it, "CONTROLLERS:PATH", for the caller to free.
 * With version 1 it is the group of the freezer, by which Slurm tracks processes. NULL and errno if this slurmstepd is
 * no job's.
 */
char *cgroup_of_job(void);

/*
 * Open groups that have the job's limits, one in each hierarchy in which the job has any. No group of a step's
 * processes is among them: Slurm ends the extern step KillWait seconds after a preemption has begun, and signals the
 * others before. -1 and errno on failure; the caller closes those that were opened.
 */
int cgroup_open_job(const char *job, struct groups *groups);

/*
 * Version 1: remove the job's groups if nothing is in them any more. Slurm does that at the job's end, but can't while a
 * dump is in one.
 */
void cgroup_remove_job(const char *job);

#endif
