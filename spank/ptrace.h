/* What a library that is loaded into CRIU needs to replace its ptrace(2). */
#pragma once

#include <dlfcn.h>
#include <sys/ptrace.h>
#include <sys/types.h>

#include "util.h"

/* sys/ptrace.h declares it with `...`; all calls of CRIU's have four arguments, which are passed in the same way. */
EXPORTED long replaced(enum __ptrace_request request, pid_t thread, void *address, void *data) __asm__("ptrace");

/* The function that `replaced` stands before. */
static inline long next_ptrace(enum __ptrace_request request, pid_t thread, void *address, void *data)
{
	static long (*next)(enum __ptrace_request, pid_t, void *, void *);

	if (!next)
		next = (long (*)(enum __ptrace_request, pid_t, void *, void *))dlsym(RTLD_NEXT, "ptrace");
	return next(request, thread, address, data);
}
