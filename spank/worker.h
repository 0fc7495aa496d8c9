/* The process that serves a connection. */
#ifndef WORKER_H
#define WORKER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol.h"

struct worker_identity {
	uint32_t job;
	uint32_t uid;
	uint32_t gid;
	const char *group;  /* the job's: "CONTROLLERS:PATH" */
	size_t hierarchies; /* descriptors from GROUPS_FD on */
	char key[KEY_SIZE];
	pid_t helper;
};

/* Become the worker, for good; it reports to `report`, unless that is -1. */
_Noreturn void worker_run(const struct worker_identity *identity, int connection, int report);

#endif
