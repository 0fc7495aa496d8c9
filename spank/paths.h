/* Where things are; LIBDIR and RUN_DIR may be set by the Makefile. */
#ifndef PATHS_H
#define PATHS_H

#ifndef LIBDIR
#define LIBDIR "/usr/lib/oci-criu-shim"
#endif

/* Of the node, root's: <jobid>/ (the job user's, the runtime's --root), <jobid>.owner and <jobid>.watch for each job. */
#ifndef RUN_DIR
#define RUN_DIR "/run/oci-criu-shim"
#endif
#define JOB_DIRECTORY RUN_DIR "/%" PRIu32

/* In the environment of what is started here: it is not the user's. */
#define PROGRAMS_PATH "PATH=/usr/sbin:/usr/bin:/sbin:/bin"

/* In a job's directory: the runtime has checkpointed the job, and ended it for Slurm to requeue. Holds Slurm's name of it. */
#define REQUEUED_MARK "requeued"

/* There too: the watcher was sent a SIGTERM. */
#define SIGNALLED_MARK "signalled"

/* Slurm's client command; its PATH is not the user's. */
#ifndef SCONTROL
#define SCONTROL "/usr/bin/scontrol"
#endif

#ifndef RUNTIME
#define RUNTIME "/usr/bin/oci-criu-shim"
#endif

#define HELPER_PROGRAM LIBDIR "/helper"
#define WATCHER_PROGRAM LIBDIR "/watcher"
#define PROXY_PROGRAM LIBDIR "/proxy"

/* Slurm's configuration, where its environment does not say. */
#ifndef SLURM_CONF_DIR
#define SLURM_CONF_DIR "/etc/slurm"
#endif

#define WORKER_PYTHON "/usr/bin/python3"
#define WORKER_SCRIPT LIBDIR "/worker.py"

#endif
