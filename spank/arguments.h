/* The plugin's arguments in plugstack.conf. */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#include <stdint.h>

struct arguments {
	const char *metrics;	/* the directory of metrics=DIRECTORY, or NULL */
	uint32_t local_seconds; /* how long the epilog may take to copy checkpoints that are on the node alone */
};

/* Return the arguments. Log any that is not understood. */
struct arguments arguments_read(int argc, char *const argv[]);

#endif
