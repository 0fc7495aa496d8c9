#include <string.h>

#include "step.h"

static int fail(spank_err_t rc)
{
	slurm_error("oci-criu-shim: can't tell the job: %s", spank_strerror(rc));
	return rc;
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
	return ESPANK_SUCCESS;
}

int step_of_stepd(spank_t sp, struct step *step)
{
	gid_t *groups = NULL;
	spank_err_t rc;

	if ((rc = step_of_job(sp, step)) != ESPANK_SUCCESS)
		return rc;
	if ((rc = spank_get_item(sp, S_JOB_STEPID, &step->id)) != ESPANK_SUCCESS)
		return fail(rc);
	if ((rc = spank_get_item(sp, S_JOB_SUPPLEMENTARY_GIDS, &groups, &step->group_count)) != ESPANK_SUCCESS)
		return fail(rc);
	step->groups = groups;
	return ESPANK_SUCCESS;
}
