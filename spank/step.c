#include <string.h>

#include "step.h"

static int fail(spank_err_t rc)
{
	slurm_error("oci-criu-shim: can't tell the job: %s", spank_strerror(rc));
	return -1;
}

int step_of_job(spank_t sp, struct step *step)
{
	spank_err_t rc;

	memset(step, 0, sizeof(*step));
	if ((rc = spank_get_item(sp, S_JOB_ID, &step->job)) != ESPANK_SUCCESS)
		return fail(rc);
	if ((rc = spank_get_item(sp, S_JOB_UID, &step->uid)) != ESPANK_SUCCESS)
		return fail(rc);
	if ((rc = spank_get_item(sp, S_JOB_GID, &step->gid)) != ESPANK_SUCCESS)
		return fail(rc);
	return 0;
}

int step_of_stepd(spank_t sp, struct step *step)
{
	gid_t *groups = NULL;
	spank_err_t rc;

	if (step_of_job(sp, step) < 0)
		return -1;
	if ((rc = spank_get_item(sp, S_JOB_STEPID, &step->id)) != ESPANK_SUCCESS)
		return fail(rc);
	if ((rc = spank_get_item(sp, S_JOB_SUPPLEMENTARY_GIDS, &groups, &step->group_count)) != ESPANK_SUCCESS)
		return fail(rc);
	step->groups = groups;
	return 0;
}
