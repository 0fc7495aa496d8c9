/* Whether a step is to run in a container, and how Slurm's oci.conf has it run. */
#ifndef CONTAINER_H
#define CONTAINER_H

#include <slurm/spank.h>
#include <stdbool.h>

/* In slurmstepd and in a task: tell if the step was given --container. */
bool container_is_asked(spank_t sp);

/* Tell if there is an oci.conf: without one, Slurm runs the step outside of its container. */
bool container_is_run(void);

/* Tell if Slurm calls the runtime's `create` and `start`, rather than `run`. */
bool container_is_created_and_started(void);

#endif
