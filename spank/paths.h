/* Where things are; LIBDIR and RUN_DIR may be set by the Makefile. */
#ifndef PATHS_H
#define PATHS_H

#ifndef LIBDIR
#define LIBDIR "/usr/lib/oci-criu-shim"
#endif

/* Of the node, root's: <jobid>/ (the job user's, the runtime's --root) and <jobid>.watch for each job. */
#ifndef RUN_DIR
#define RUN_DIR "/run/oci-criu-shim"
#endif

#define HELPER_PROGRAM LIBDIR "/helper"
#define WATCHER_PROGRAM LIBDIR "/watcher"

#define WORKER_PYTHON "/usr/bin/python3"
#define WORKER_SCRIPT LIBDIR "/worker.py"

#endif
