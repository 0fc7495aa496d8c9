#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "paths.h"
#include "privileges.h"
#include "spawn.h"
#include "util.h"

enum { FIRST_FD = 3, MAX_FDS = 18, HIGH_FD = 64 };

/* Milliseconds for killed processes to be gone; one that waits for a disk, or for a user's file system, may stay. */
enum { DEATH = 1000 };

static char *const ENVIRONMENT[] = { PROGRAMS_PATH, "LANG=C.UTF-8", NULL };

/* All from here to execve(2) runs in the child of a threaded process: only async-signal-safe functions. */

static void reset_signals(void)
{
	struct sigaction action = { .sa_handler = SIG_DFL };
	sigset_t all;

	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &action, NULL);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
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

/* Leave 0 to 2 on /dev/null, those given at 3 and on, and `status` close-on-exec after them. */
static int place_fds(const struct spawn *job, int *status)
{
	int high[MAX_FDS], last = FIRST_FD + (int)job->fd_count;

	/* Move them out of the way first: any of them may have the number that another is to get. */
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

/* slurmstepd shields itself from the out-of-memory killer; a program that it starts is worth no more than any other. */
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
	return job->uid ? become_untraced_user(job->uid, job->gid) : 0;
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
	execve(job->path, job->argv, ENVIRONMENT);
fail:
	failure = errno;
	if (write(status, &failure, sizeof(failure)) < 0)
		_exit(126);
	_exit(127);
}

/* The pipe closes without a word when execve(2) succeeds. */
static int wait_for_exec(int status)
{
	int failure = 0;
	ssize_t got;

	do
		got = read(status, &failure, sizeof(failure));
	while (got < 0 && errno == EINTR);
	if (got == 0)
		return 0;
	errno = got == sizeof(failure) ? failure : EIO;
	return -1;
}

static void reap(pid_t pid, int options)
{
	int saved = errno;

	waitpid(pid, NULL, options);
	errno = saved;
}

/* fork(2) with flags of clone(2): a process enters a new pid namespace only by being its first. */
static pid_t fork_with(unsigned long flags)
{
	return (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
}

/*
 * Start the program. If the child fails, it writes the reason into a pipe, and `status` is the end to read from; see
 * run().
 */
static pid_t start(const struct spawn *job, unsigned long flags, int *status)
{
	CLEANUP_FD int writing = -1;
	int ends[2];
	pid_t pid;

	if (job->fd_count > MAX_FDS) {
		errno = EINVAL;
		return -1;
	}
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	*status = ends[0];
	writing = ends[1];
	if ((pid = fork_with(flags)) == 0)
		run(job, writing);
	return pid;
}

pid_t spawn(const struct spawn *job)
{
	CLEANUP_FD int status = -1;
	pid_t pid = start(job, 0, &status);

	if (pid < 0 || wait_for_exec(status) == 0)
		return pid;
	reap(pid, 0);
	return -1;
}

static int64_t milliseconds(void)
{
	return (int64_t)(nanoseconds() / 1000000);
}

/* Tell if a descriptor is readable, or has come to its end, by then; that of a process is when it has ended. */
static bool happens_by(int fd, int64_t deadline)
{
	struct pollfd event = { .fd = fd, .events = POLLIN };
	int64_t left;
	int ready;

	do {
		left = deadline - milliseconds();
		ready = poll(&event, 1, left > 0 ? (int)left : 0);
	} while (ready < 0 && errno == EINTR);
	return ready > 0;
}

/* When its first process is killed, all of the namespace is. */
static void end(pid_t pid, int process)
{
	kill(pid, SIGKILL);
	happens_by(process, milliseconds() + DEATH);
}

/* Run a program until the deadline at most; once it has closed `left`, or has ended, close `result`. -1 on failure. */
static int run_guarded(const struct spawn *job, int left, int *result, int64_t deadline)
{
	CLEANUP_FD int status = -1;
	pid_t pid = start(job, CLONE_NEWPID, &status);
	CLEANUP_FD int process = pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);

	/* Now the child alone has it: `left` ends with that. */
	close_fd(job->fds);
	if (pid < 0)
		return -1;
	/* Don't wait for execve(2) first: the child may be the user's already, who may stop it. */
	if (!happens_by(left, deadline)) {
		end(pid, process);
		errno = ETIMEDOUT;
		return -1;
	}
	if (wait_for_exec(status) < 0)
		return -1;
	close_fd(result);
	if (!happens_by(process, deadline))
		end(pid, process);
	return 0;
}

/* In a child: have nothing of the parent's but the end of a pipe into which a failure is written, see run_guarded(). */
static void guard(const struct spawn *job, int result, int64_t deadline)
{
	struct spawn nothing = { .fd_count = 0 }, guarded = *job;
	int ends[2], failure, rc;

	setsid();
	unshield_from_oom();
	if (place_fds(&nothing, &result) < 0 || pipe2(ends, O_CLOEXEC) < 0)
		goto fail;
	guarded.fds = &ends[1];
	guarded.fd_count = 1;
	rc = run_guarded(&guarded, ends[0], &result, deadline);
	close_fd(&ends[0]);
	if (rc == 0) {
		syscall(SYS_close_range, 0, ~0U, 0); /* newer valgrinds count the three that place_fds() has opened */
		_exit(0);
	}
fail:
	failure = errno;
	rc = write(result, &failure, sizeof(failure)) < 0 ? 126 : 127;
	close_fd(&result);
	_exit(rc);
}

int spawn_and_wait(const struct spawn *job, unsigned int seconds)
{
	const int64_t deadline = milliseconds() + (int64_t)seconds * 1000;
	CLEANUP_FD int result = -1;
	int ends[2], rc;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	result = ends[0];
	if ((pid = fork_with(0)) == 0)
		guard(job, ends[1], deadline);
	close_fd(&ends[1]);
	if (pid < 0)
		return -1;
	rc = wait_for_exec(result);
	reap(pid, WNOHANG);
	return rc;
}
