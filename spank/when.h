/* The words for times of checkpoints on a command line; the runtime has the same grammar. */
#ifndef WHEN_H
#define WHEN_H

#include <stdbool.h>

/* Tell if the text is one or more of preempt, timeout, interval:TIME and signal:NAME, with commas between. */
bool when_is_list(const char *text);

/* Tell if the text is none or off. */
bool when_is_never(const char *text);

/* Tell if the text is a positive number with s, m, h, d or w after it, or auto. */
bool when_is_interval(const char *text);

#endif
