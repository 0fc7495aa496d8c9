/* The job and step that a hook is called for. Functions return 0, or -1 and log the error. */
#ifndef STEP_H
#define STEP_H

#include <slurm/spank.h>
#include <stdint.h>
#include <sys/types.h>

/* Slurm's number for the extern step (SLURM_EXTERN_CONT). */
#define EXTERN_STEP UINT32_C(0xfffffffc)
#define BATCH_STEP UINT32_C(0xfffffffb)

struct step {
	uint32_t job;
	uint32_t id; /* 0 in prolog and epilog */
	uid_t uid;
	gid_t gid;
	const gid_t *groups;
	int group_count;
};

/* In prolog and epilog. */
int step_of_job(spank_t sp, struct step *step);

/* In slurmstepd; the groups are Slurm's and last as long as the hook. */
int step_of_stepd(spank_t sp, struct step *step);

#endif
