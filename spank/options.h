/* The plugin's options of srun, sbatch and salloc. Functions return 0, or -1 and log the error. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <slurm/spank.h>
#include <stdbool.h>

/* In the commands and in slurmstepd: have Slurm parse the options. */
int options_register(spank_t sp);

/* In the commands, once all options are known: refuse those that don't go together, pass the rest on to the job. */
int options_submit(spank_t sp);

/* In slurmstepd: write the step's options into its environment. */
int options_apply(spank_t sp);

/* In slurmstepd: tell if the step asked to be checkpointed. */
bool options_step_asked(void);

/* In prolog and epilog: tell if the job asked to be checkpointed when it was submitted. */
bool options_job_asked(spank_t sp);

void options_forget(void);

#endif
