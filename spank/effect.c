#include <stdint.h>
#include <string.h>

#include "container.h"
#include "effect.h"
#include "rundir.h"
#include "util.h"

static enum { PROTECTED, NO_CONTAINER, NO_OCI_CONF } expected;
static uint32_t job;

/*
 * Steps of a job with several nodes, or of a heterogeneous one, may have had their containers on other nodes only.
 * Slurm 24.11 does not tell a plugin the number in a batch step (S_JOB_NNODES is 0).
 */
static bool has_one_node(spank_t sp)
{
	char text[16];

	return spank_getenv(sp, "SLURM_HET_SIZE", text, sizeof(text)) == ESPANK_ENV_NOEXIST &&
	       spank_getenv(sp, "SLURM_JOB_NUM_NODES", text, sizeof(text)) == ESPANK_SUCCESS && !strcmp(text, "1");
}

void effect_begin(spank_t sp, const struct step *step)
{
	job = step->job;
	if (!container_is_asked(sp))
		expected = step->id == BATCH_STEP && has_one_node(sp) ? NO_CONTAINER : PROTECTED;
	else if (!container_is_run())
		expected = NO_OCI_CONF;
	else
		rundir_note_container(job);
}

void effect_end(void)
{
	if (expected == NO_OCI_CONF)
		slurm_spank_log("oci-criu-shim: there is no oci.conf on this node: the step ran outside of its "
				"container, and --checkpoint had no effect");
	else if (expected == NO_CONTAINER && !rundir_has_container(job))
		slurm_spank_log("oci-criu-shim: no container ran in this job: --checkpoint had no effect (hint: give "
				"--container to sbatch, or to srun in the script)");
	expected = PROTECTED;
}
