#define _GNU_SOURCE
#include <limits.h>
#include <string.h>
#include <strings.h>

#include "container.h"
#include "paths.h"
#include "util.h"

bool container_is_asked(spank_t sp)
{
	char bundle[PATH_MAX];

	return spank_getenv(sp, "SLURM_CONTAINER", bundle, sizeof(bundle)) == ESPANK_SUCCESS;
}

/* oci.conf is beside slurm.conf. slurmd puts the path of slurm.conf into its environment, which slurmstepd has, too. */
static FILE *open_oci_conf(void)
{
	CLEANUP_TEXT char *path = NULL;
	const char *conf = getenv("SLURM_CONF");
	const char *slash = conf ? strrchr(conf, '/') : NULL;

	if (asprintf(&path, "%.*s/oci.conf", slash ? (int)(slash - conf) : INT_MAX, slash ? conf : SLURM_CONF_DIR) < 0)
		return NULL;
	return fopen(path, "re");
}

bool container_is_run(void)
{
	CLEANUP_FILE FILE *file = open_oci_conf();

	return file || errno != ENOENT;
}

bool container_is_created_and_started(void)
{
	static const char key[] = "RunTimeCreate";
	CLEANUP_FILE FILE *file = open_oci_conf();
	CLEANUP_TEXT char *line = NULL;
	size_t size = 0;

	while (file && getline(&line, &size, file) > 0) {
		const char *word = line + strspn(line, " \t");

		if (!strncasecmp(word, key, sizeof(key) - 1) && strchr("= \t", word[sizeof(key) - 1]))
			return true;
	}
	return false;
}
