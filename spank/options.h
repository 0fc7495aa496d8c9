/* The options that srun, sbatch and salloc get. Functions return 0, or -1 with the error logged. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <slurm/spank.h>
#include <stdbool.h>

/* Where options are to be parsed: in the commands and in slurmstepd. */
int options_register(spank_t sp);

/* In the commands, all options being known: refuse what doesn't go together, pass the rest on to the job. */
int options_submit(spank_t sp);

/* In slurmstepd: say in the step's environment what the step asked for. */
int options_apply(spank_t sp);

/* In slurmstepd: does the step want to be checkpointed? */
bool options_step_asked(void);

/* In prolog and epilog: did the job, when it was submitted, ask to be checkpointed? */
bool options_job_asked(spank_t sp);

void options_forget(void);

#endif
