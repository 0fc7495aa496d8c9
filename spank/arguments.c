#include <slurm/spank.h>
#include <stddef.h>
#include <string.h>

#include "arguments.h"

static const char METRICS[] = "metrics=/";

const char *arguments_metrics(int argc, char *const argv[])
{
	const char *directory = NULL;

	for (int i = 0; i < argc; i++)
		if (!strncmp(argv[i], METRICS, strlen(METRICS)))
			directory = argv[i] + strlen(METRICS) - 1;
		else
			slurm_error("oci-criu-shim: plugstack.conf: %s: not known; metrics=/DIRECTORY is", argv[i]);
	return directory;
}
