/* Paths; the Makefile sets LIBDIR, RUN_DIR and RUNTIME. */
#ifndef PATHS_H
#define PATHS_H

#ifndef LIBDIR
#define LIBDIR "/usr/lib/oci-criu-shim"
#endif

/*
 * The node's run directory, root's. For each job: <jobid>/ (the job user's, the runtime's --root), <jobid>.owner, and
 * <jobid>.watch if it asked for checkpoints.
 */
#ifndef RUN_DIR
#define RUN_DIR "/run/oci-criu-shim"
#endif
#define JOB_DIRECTORY RUN_DIR "/%" PRIu32

/* In the environment of programs that are started here, instead of the user's PATH. */
#define PROGRAMS_PATH "PATH=/usr/sbin:/usr/bin:/sbin:/bin"

/*
 * In a job's directory: the runtime has checkpointed the job, and ended it for Slurm to requeue. Holds Slurm's name of
 * the job.
 */
#define REQUEUED_MARK "requeued"

/* In a job's directory: the batch script has ended, and the job with it. */
#define ENDED_MARK "ended"

/* In a job's directory: the watcher was sent a SIGTERM. */
#define SIGNALLED_MARK "signalled"

/* Slurm's client command; it does not run with the user's PATH. */
#ifndef SCONTROL
#define SCONTROL "/usr/bin/scontrol"
#endif

#ifndef RUNTIME
#define RUNTIME "/usr/bin/oci-criu-shim"
#endif

#define HELPER_PROGRAM LIBDIR "/helper"
#define WATCHER_PROGRAM LIBDIR "/watcher"
#define PROXY_PROGRAM LIBDIR "/proxy"
/* Takes over tasks without a container. */
#define BARE_PROGRAM LIBDIR "/task"

/* Slurm's configuration, unless Slurm's environment names another. */
#ifndef SLURM_CONF_DIR
#define SLURM_CONF_DIR "/etc/slurm"
#endif

#define WORKER_PYTHON "/usr/bin/python3"
#define WORKER_SCRIPT LIBDIR "/worker.py"

#endif
