/* Say in a job's output what --checkpoint could not protect: what ran outside of a container. */
#ifndef EFFECT_H
#define EFFECT_H

#include <slurm/spank.h>

#include "step.h"

/* In slurmstepd, at the beginning of a step that asked for checkpoints. */
void effect_begin(spank_t sp, const struct step *step);

/* In slurmstepd, when one of the step's tasks has ended: later, its standard error is nobody's. */
void effect_end(void);

#endif
