/* Signals by a descriptor, for programs started with all signals blocked (spawn.h, task.c), which so miss none. */
#ifndef SIGNALS_H
#define SIGNALS_H

#include <stddef.h>

/* Open a descriptor that reads these signals and never waits. -1 and errno on failure. */
int signals_open(const int *numbers, size_t count);

/* Take the next pending signal; 0 if there is none. */
int signals_next(int signals);

#endif
