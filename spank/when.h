/* The words for times of checkpoints on a command line; the runtime has the same grammar. */
#ifndef WHEN_H
#define WHEN_H

#include <stdbool.h>

/*
 * Return a copy of the first item of the text that is none of preempt, timeout, interval:TIME and signal:NAME; they have
 * commas between. NULL if all are; the caller frees it.
 */
char *when_wrong_item(const char *text);

/* Tell if the text is none or off. */
bool when_is_never(const char *text);

/* Tell if the text is a positive time, as 90s, 1h30m, or as Slurm writes it: 30, 1:00:00, 1-0; or auto. */
bool when_is_interval(const char *text);

#endif
