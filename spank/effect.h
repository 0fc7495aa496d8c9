/* Say in a job's output that a step which asked for checkpoints ran outside of its container. */
#ifndef EFFECT_H
#define EFFECT_H

#include <slurm/spank.h>

/* In slurmstepd, at the beginning of a step that asked for checkpoints. */
void effect_begin(spank_t sp);

/* In slurmstepd, when one of the step's tasks has ended: later, its standard error is nobody's. */
void effect_end(void);

#endif
