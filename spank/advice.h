/* Say, before a job waits in the queue, what is likely wrong with its options. Nodes may differ, so nothing is refused. */
#ifndef ADVICE_H
#define ADVICE_H

#include <stdbool.h>

/* On the directory for checkpoints, which was made absolute if `relative`. */
void advice_on_directory(const char *directory, bool relative);

/* On what the job is to start from: a path, or if it `is_job`, JOBID[:SEQ] in `directory`, which may be NULL. */
void advice_on_source(const char *source, bool is_job, const char *directory);

#endif
