/* Tasks without a container. */
#ifndef BARE_H
#define BARE_H

#include <slurm/spank.h>

/*
 * In a task's process: have Slurm execute a program of ours in place of the task's, which that program finds in its
 * environment. It decides whether the task can be checkpointed, or executes it as it is. -1 and a logged error on
 * failure.
 */
int bare_take_over(spank_t sp);

#endif
