#include <slurm/spank.h>
#include <stddef.h>
#include <string.h>

#include "arguments.h"
#include "util.h"

static const char METRICS[] = "metrics=/", LOCAL_SECONDS[] = "local-seconds=";
static const uint32_t LONGEST = 86400;

static const char *value_of(const char *argument, const char *name)
{
	size_t length = strlen(name);

	return strncmp(argument, name, length) ? NULL : argument + length;
}

struct arguments arguments_read(int argc, char *const argv[])
{
	struct arguments found = { NULL, 0 };

	for (int i = 0; i < argc; i++) {
		const char *directory = value_of(argv[i], METRICS), *seconds = value_of(argv[i], LOCAL_SECONDS);

		if (directory)
			found.metrics = directory - 1;
		else if (!seconds || !parse_number(seconds, LONGEST, &found.local_seconds))
			slurm_error(
				"oci-criu-shim: plugstack.conf: %s: not known; metrics=/DIRECTORY and local-seconds=N are",
				argv[i]);
	}
	return found;
}
