/*
 * The hooks of the SPANK plugin; they only dispatch. A failure is a negative result; since 25.05 Slurm takes any other
 * than 0 for one.
 */

/* Only these declarations are visible from outside. */
#pragma GCC visibility push(default)
#include <slurm/spank.h>

SPANK_PLUGIN(oci_criu_shim, 1)

#ifdef HAVE_JOB_FAILURE
/* Since 26.05: if the plugin can't begin, the job fails. Else its node would be drained. */
int slurm_spank_init_failure_mode = ESPANK_JOB_FAILURE;
enum { STEP_FAILURE = ESPANK_JOB_FAILURE };
#else
enum { STEP_FAILURE = -1 };
#endif
#pragma GCC visibility pop

#include "arguments.h"
#include "bare.h"
#include "effect.h"
#include "lifeline.h"
#include "options.h"
#include "programs.h"
#include "rundir.h"
#include "step.h"
#include "task.h"
#include "util.h"

int slurm_spank_init(spank_t sp, UNUSED int argc, UNUSED char *argv[])
{
	switch (spank_context()) {
	case S_CTX_LOCAL:
	case S_CTX_ALLOCATOR:
	case S_CTX_REMOTE:
		return options_register(sp);
	default:
		return 0;
	}
}

/*
 * A step that can't be checkpointed still runs, with an error in its log: a failure here would end the job or, before
 * 26.05, hold it and drain the node. Programs are not started in slurm_spank_task_post_fork: if job_container/tmpfs is
 * in use, slurmstepd runs that hook in a short-lived process, and in a step without tasks not at all.
 */
static int begin_step(spank_t sp, int argc, char *argv[])
{
	struct step step;

	if (step_of_stepd(sp, &step) < 0)
		return STEP_FAILURE;
	if (step.id == EXTERN_STEP) {
		watcher_start(&step);
		return 0;
	}
	if (options_step_asked()) {
		helper_start(&step, arguments_read(argc, argv).metrics);
		effect_begin(sp);
	}
	return options_apply(sp) < 0 ? STEP_FAILURE : 0;
}

int slurm_spank_init_post_opt(spank_t sp, int argc, char *argv[])
{
	switch (spank_context()) {
	case S_CTX_LOCAL:
	case S_CTX_ALLOCATOR:
		return options_submit(sp);
	case S_CTX_REMOTE:
		return begin_step(sp, argc, argv);
	default:
		return 0;
	}
}

int slurm_spank_task_init(spank_t sp, UNUSED int argc, UNUSED char *argv[])
{
	return task_stand_in(sp) < 0 ? -1 : bare_take_over(sp);
}

int slurm_spank_task_exit(UNUSED spank_t sp, UNUSED int argc, UNUSED char *argv[])
{
	effect_end();
	return 0;
}

int slurm_spank_job_prolog(spank_t sp, UNUSED int argc, UNUSED char *argv[])
{
	struct step step;

	if (step_of_job(sp, &step) < 0)
		return -1;
	return rundir_create(step.job, step.uid, step.gid, options_job_asked(sp));
}

int slurm_spank_job_epilog(spank_t sp, int argc, char *argv[])
{
	struct step step;

	if (step_of_job(sp, &step) < 0)
		return -1;
	rundir_remove(step.job, step.uid, step.gid, arguments_read(argc, argv).local_seconds);
	return 0;
}

int slurm_spank_exit(UNUSED spank_t sp, UNUSED int argc, UNUSED char *argv[])
{
	lifeline_cut();
	options_forget();
	return 0;
}
