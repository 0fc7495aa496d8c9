/* What may be said of checkpoints on a command line: the grammar that schedule.py has for the runtime. */
#ifndef WHEN_H
#define WHEN_H

#include <stdbool.h>

/* preempt, timeout, interval:TIME and signal:NAME, one or more, with commas between. */
bool when_is_list(const char *text);

/* none or off. */
bool when_is_never(const char *text);

/* A positive number with s, m, h, d or w after it, or auto. */
bool when_is_interval(const char *text);

#endif
