/* Agreed between the plugin, its programs and the runtime. */
#ifndef PROTOCOL_H
#define PROTOCOL_H

#include <signal.h>
#include <stdint.h>

/* From the watcher to each runtime of the job: take a checkpoint now. */
#define CHECKPOINT_SIGNAL (SIGRTMIN + 3)

/*
 * Descriptors with which the programs are started. The lifeline reads end of file once slurmstepd is gone. The watcher's
 * KILL_FD reads something once slurmstepd has killed its step's processes. From GROUPS_FD on, up to the first that isn't
 * open, the helper has those by which its workers enter the job's control groups.
 */
enum { LIFELINE_FD = 3, KILL_FD = 4, LISTENER_FD = 4, GROUPS_FD = 5 };

/* The descriptor on which the worker talks to the runtime. */
enum { CONNECTION_FD = 3 };

/*
 * In the worker's environment: the key, in hexadecimal, with which a step's workers seal images (privileged/seal.py).
 */
#define KEY_VARIABLE "OCI_CRIU_SHIM_KEY"
enum { KEY_BYTES = 32, KEY_SIZE = 2 * KEY_BYTES + 1 };

/*
 * If the site counts dumps, the worker writes two reports to this descriptor: one when a dump is asked for, one when it
 * is over. Only the worker and the helper have it (privileged/report.py).
 */
enum { REPORT_FD = 4, REPORT_VERSION = 1 };

enum report_outcome {
	REPORT_BEGUN,
	REPORT_DONE,
	/* A dump that became no checkpoint, since: */
	REPORT_SETUP,	    /* CRIU is missing, or too old */
	REPORT_REFUSED,	    /* such a dump is not allowed */
	REPORT_CRIU,	    /* CRIU failed */
	REPORT_UNCOMMITTED, /* the runtime did not make a checkpoint of the images, or was gone */
	REPORT_KILLED,	    /* the worker did not write its second report; only the helper can tell */
};

struct report {
	uint32_t version;
	uint32_t outcome;
	uint64_t bytes; /* of the images */
	uint64_t nanoseconds;
};

/* In the job's run directory; the step id in decimal, like %s in oci.conf. */
#define HELPER_SOCKET "helper.%" PRIu32 ".sock"

/*
 * In the job's run directory: the step id, and the task's number on the node. The runtime that connects gets the task's
 * streams.
 */
#define PROXY_SOCKET "task.%" PRIu32 ".%" PRIu32 ".sock"
enum { PROXY_LISTENER_FD = 3 };

#endif
