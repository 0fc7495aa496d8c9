#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

#include "bare.h"
#include "container.h"
#include "options.h"
#include "paths.h"
#include "step.h"
#include "util.h"

/* The variable of the task's environment that names its program. */
static const char VARIABLE[] = "OCI_CRIU_SHIM_PROGRAM";

/*
 * Tell if it is one of a step with --multi-prog. Slurm has other lists of words for its tasks, which no plugin gets; this
 * one has the file's name and its content (stepd_step_rec_create() in slurmstepd_job.c, 24.11 to 26.05).
 */
static bool is_of_several(char *const words[], int count)
{
	return count == 2 && strchr(words[1], '\n') && access(words[0], X_OK) < 0;
}

/*
 * Slurm executes what is in its list of words when the hook has returned (exec_task() in slurmstepd's task.c, 24.11 to
 * 26.05): after TaskProlog, with the task's limits.
 */
int bare_take_over(spank_t sp)
{
	static char program[] = BARE_PROGRAM;
	struct step step;
	spank_err_t rc;
	char **words = NULL;
	int count = 0;

	if (!options_step_asked() || container_is_asked(sp))
		return 0;
	if (step_of_stepd(sp, &step) < 0)
		return -1;
	if (step.id == EXTERN_STEP)
		return 0;
	if ((rc = spank_get_item(sp, S_JOB_ARGV, &count, &words)) != ESPANK_SUCCESS)
		goto fail;
	/* The hook may be called twice: see options_register(). */
	if (count < 1 || !words[0] || words[0] == program)
		return 0;
	if (is_of_several(words, count)) {
		dprintf(STDERR_FILENO, "oci-criu-shim: --multi-prog: the task is not checkpointed\n");
		return 0;
	}
	if ((rc = spank_setenv(sp, VARIABLE, words[0], 1)) != ESPANK_SUCCESS)
		goto fail;
	words[0] = program;
	return 0;
fail:
	slurm_error("oci-criu-shim: can't take over the task: %s", spank_strerror(rc));
	return -1;
}
