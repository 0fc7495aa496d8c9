#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "privileges.h"
#include "spawn.h"
#include "util.h"

enum { FIRST_FD = 3, MAX_FDS = 18, HIGH_FD = 64 };

static char *const ENVIRONMENT[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", NULL};

/* All from here to execve(2) runs in the child of a threaded process: only what is async-signal-safe. */

static void reset_signals(void)
{
	struct sigaction action = {.sa_handler = SIG_DFL};
	sigset_t blocked;

	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &action, NULL);
	sigfillset(&blocked);
	sigdelset(&blocked, SIGALRM);
	sigprocmask(SIG_SETMASK, &blocked, NULL);
}

static int null_streams(void)
{
	int null = open("/dev/null", O_RDWR);

	if (null < 0)
		return -1;
	for (int fd = 0; fd < FIRST_FD; fd++)
		if (dup2(null, fd) < 0)
			return -1;
	return 0;
}

/* Leave 0 to 2 on /dev/null, 3 and on as given, and `status` close-on-exec after them. */
static int place_fds(const struct spawn *job, int *status)
{
	int high[MAX_FDS], last = FIRST_FD + (int)job->fd_count;

	/* Out of the way first: any of them may be where another has to go. */
	if ((*status = fcntl(*status, F_DUPFD_CLOEXEC, HIGH_FD)) < 0)
		return -1;
	for (size_t i = 0; i < job->fd_count; i++)
		if ((high[i] = fcntl(job->fds[i], F_DUPFD_CLOEXEC, HIGH_FD)) < 0)
			return -1;
	if (null_streams() < 0)
		return -1;
	for (size_t i = 0; i < job->fd_count; i++)
		if (dup2(high[i], FIRST_FD + (int)i) < 0)
			return -1;
	if ((*status = dup3(*status, last, O_CLOEXEC)) < 0)
		return -1;
	return (int)syscall(SYS_close_range, last + 1, ~0U, 0);
}

/* slurmstepd shields itself from the out-of-memory killer; what it starts is no more worth than any process. */
static void unshield_from_oom(void)
{
	CLEANUP_FD int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, "0", 1) < 0)
		return;
}

static int set_identity(const struct spawn *job)
{
	if (job->groups && syscall(SYS_setgroups, job->group_count, job->groups) < 0)
		return -1;
	return job->uid ? become_user(job->uid, job->gid) : 0;
}

static void run(const struct spawn *job, int status)
{
	int failure;

	if (place_fds(job, &status) < 0)
		goto fail;
	unshield_from_oom();
	setsid();
	umask(077);
	if (chdir("/") < 0 || set_identity(job) < 0)
		goto fail;
	reset_signals();
	alarm(job->timeout);
	execve(job->path, job->argv, ENVIRONMENT);
fail:
	failure = errno;
	if (write(status, &failure, sizeof(failure)) < 0)
		_exit(126);
	_exit(127);
}

/* The pipe closes without a word when execve(2) succeeds. */
static int wait_for_exec(pid_t pid, int status)
{
	int failure = 0;
	ssize_t got;

	do
		got = read(status, &failure, sizeof(failure));
	while (got < 0 && errno == EINTR);
	if (got == 0)
		return 0;
	waitpid(pid, NULL, 0);
	errno = got == sizeof(failure) ? failure : EIO;
	return -1;
}

pid_t spawn(const struct spawn *job)
{
	CLEANUP_FD int reading = -1;
	CLEANUP_FD int writing = -1;
	int ends[2];
	pid_t pid;

	if (job->fd_count > MAX_FDS) {
		errno = EINVAL;
		return -1;
	}
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	reading = ends[0];
	writing = ends[1];
	if ((pid = _Fork()) < 0)
		return -1;
	if (pid == 0)
		run(job, writing);
	close(writing);
	writing = -1;
	return wait_for_exec(pid, reading) < 0 ? -1 : pid;
}
