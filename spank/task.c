#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "container.h"
#include "paths.h"
#include "protocol.h"
#include "step.h"
#include "task.h"
#include "util.h"

static int listen_at(const struct step *step, uint32_t task)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	snprintf(address.sun_path, sizeof(address.sun_path), JOB_DIRECTORY "/" PROXY_SOCKET, step->job, step->id, task);
	if (unlink(address.sun_path) < 0 && errno != ENOENT)
		return -1;
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 1) < 0)
		return -1;
	return take_fd(&fd);
}

/* Leave the task's streams at 0 to 2, the listening socket at 3, and all signals blocked. */
static void become_proxy(int listener, pid_t child)
{
	char number[16];
	char *const argv[] = { PROXY_PROGRAM, number, NULL };
	char *const environment[] = { NULL };

	snprintf(number, sizeof(number), "%d", child);
	if (listener == PROXY_LISTENER_FD ? fcntl(listener, F_SETFD, 0) < 0 : dup2(listener, PROXY_LISTENER_FD) < 0)
		goto fail;
	if (syscall(SYS_close_range, PROXY_LISTENER_FD + 1, ~0U, 0) < 0)
		goto fail;
	execve(PROXY_PROGRAM, argv, environment);
fail:
	dprintf(STDERR_FILENO, "oci-criu-shim: " PROXY_PROGRAM ": %s\n", strerror(errno));
	_exit(127);
}

static bool is_other_end_of(const struct stat *pipe, int fd)
{
	struct stat status;

	return fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode) && status.st_dev == pipe->st_dev &&
	       status.st_ino == pipe->st_ino;
}

/*
 * Close slurmstepd's end of the task's input: if a process that never executes anything held it, no end of file would
 * ever come.
 */
static void close_input(void)
{
	CLEANUP_DIR DIR *fds = opendir("/proc/self/fd");
	struct stat input;

	if (!fds || fstat(STDIN_FILENO, &input) < 0)
		return;
	for (struct dirent *entry; (entry = readdir(fds));) {
		int fd = atoi(entry->d_name);

		if (fd > STDERR_FILENO && is_other_end_of(&input, fd))
			close(fd);
	}
}

static int stand_in(int listener)
{
	sigset_t all, before;
	pid_t child;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	if ((child = fork()) > 0)
		become_proxy(listener, child);
	if (child == 0)
		close_input();
	sigprocmask(SIG_SETMASK, &before, NULL);
	return child;
}

int task_stand_in(spank_t sp)
{
	static bool stands_in; /* the hook's second call, see options_register(), is in the child */
	CLEANUP_FD int listener = -1;
	struct step step;
	spank_err_t rc;
	uint32_t task;

	if (stands_in || !container_is_asked(sp) || !container_is_created_and_started())
		return 0;
	stands_in = true;
	if (step_of_stepd(sp, &step) < 0)
		return -1;
	if ((rc = spank_get_item(sp, S_TASK_ID, &task)) != ESPANK_SUCCESS) {
		slurm_error("oci-criu-shim: can't tell the task: %s", spank_strerror(rc));
		return -1;
	}
	if ((listener = listen_at(&step, task)) < 0 || stand_in(listener) < 0) {
		slurm_error("oci-criu-shim: proxy of task %" PRIu32 ": %s", task, strerror(errno));
		return -1;
	}
	return 0;
}
