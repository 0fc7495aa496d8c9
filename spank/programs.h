/* The two programs that the plugin starts from slurmstepd. */
#ifndef PROGRAMS_H
#define PROGRAMS_H

#include "step.h"

/* In an extern step: start the watcher, if the job asked to be checkpointed. -1 and a logged error on failure. */
int watcher_start(const struct step *step);

/*
 * In any other step that asked: start the helper, which counts dumps in `metrics`, unless NULL. -1 and a logged error
 * on failure.
 */
int helper_start(const struct step *step, const char *metrics);

#endif
