#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>

#include "lifeline.h"
#include "util.h"

/* The end to write to, held open and never written to. A slurmstepd has at most one program. */
static int held = -1;

int lifeline_open(void)
{
	int ends[2];

	lifeline_cut();
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	held = ends[1];
	return ends[0];
}

bool lifeline_is_held(void)
{
	return held >= 0;
}

void lifeline_cut(void)
{
	close_fd(&held);
	held = -1;
}
