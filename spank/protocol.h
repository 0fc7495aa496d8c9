/* What the plugin, its programs and the runtime agree upon. */
#ifndef PROTOCOL_H
#define PROTOCOL_H

#include <signal.h>

/* From the watcher to each runtime of the job: take a checkpoint now. */
#define CHECKPOINT_SIGNAL (SIGRTMIN + 3)

/* Descriptors the programs are started with. The lifeline reads end of file when slurmstepd is gone. */
enum { LIFELINE_FD = 3, LISTENER_FD = 4 };

/* The descriptor on which the worker talks to the runtime. */
enum { CONNECTION_FD = 3 };

/* In the job's run directory; the step id in decimal, as %s in oci.conf. */
#define HELPER_SOCKET "helper.%" PRIu32 ".sock"

/* In the job's run directory: step id and the task's number on the node. The runtime that connects gets the task's streams. */
#define PROXY_SOCKET "task.%" PRIu32 ".%" PRIu32 ".sock"
enum { PROXY_LISTENER_FD = 3 };

#endif
