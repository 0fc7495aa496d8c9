/*
 * watcher JOBID UID GID: pass on to the runtimes of a job, as the job's user, that Slurm has sent it a signal, until
 * nobody needs that any more, Slurm kills the extern step, or the lifeline breaks.
 *
 * Slurm tells the extern step of a preemption but not the batch step: by SIGTERM or, with send_user_signal among its
 * PreemptParameters, by the signal of the job's --signal alone, which may be any. The watcher only passes that on: the
 * runtimes find out what the signal means, and if there is something to do about it.
 *
 * SIGTERM ends the extern step's own process, so Slurm ends the step as soon as no other is left, and waits a second if
 * it finds a process in it then (proctrack_p_wait() in proctrack/cgroup): the node would be free that much later. So the
 * watcher ends when the job is marked as ended, and after SIGTERM, with the last runtime, or when the job is marked as
 * requeued.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <syslog.h>

#include "paths.h"
#include "privileges.h"
#include "protocol.h"
#include "signals.h"
#include "util.h"

#define DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* More than any kernel's pid_max; 1 is no runtime. */
enum { MAX_PID = 1 << 22 };

/* Read a whole small file, which may be anything a user can make; false unless it is a regular file that fits. */
static bool read_small(int directory, const char *name, char *text, size_t size)
{
	CLEANUP_FD int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat status;
	ssize_t got;

	if (fd < 0 || fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))
		return false;
	if ((got = read(fd, text, size)) < 0 || (size_t)got >= size)
		return false;
	text[got] = '\0';
	return strlen(text) == (size_t)got;
}

static bool read_pid(int directory, pid_t *pid)
{
	char text[16];
	uint32_t number;

	if (!read_small(directory, "pid", text, sizeof(text)))
		return false;
	text[strcspn(text, "\n")] = '\0';
	if (!parse_number(text, MAX_PID, &number) || number <= 1)
		return false;
	*pid = (pid_t)number;
	return true;
}

/*
 * By now the number may be another process's, and the signal ends any process that doesn't expect it. A runtime does:
 * it catches, ignores or blocks it (but mustn't sit in sigwait(3): for that time Linux shows the signal as not
 * blocked).
 */
static bool expects_signal(pid_t pid)
{
	CLEANUP_TEXT char *path = NULL;
	CLEANUP_FILE FILE *file = NULL;
	uint64_t blocked = 0, ignored = 0, caught = 0;
	char line[256];

	if (asprintf(&path, "/proc/%d/status", pid) < 0 || !(file = fopen(path, "re")))
		return false;
	while (fgets(line, sizeof(line), file)) {
		sscanf(line, "SigBlk: %" SCNx64, &blocked);
		sscanf(line, "SigIgn: %" SCNx64, &ignored);
		sscanf(line, "SigCgt: %" SCNx64, &caught);
	}
	return ((blocked | ignored | caught) >> (CHECKPOINT_SIGNAL - 1)) & 1;
}

static void notify(pid_t pid)
{
	if (kill(pid, CHECKPOINT_SIGNAL) < 0)
		syslog(LOG_WARNING, "process %d: %m", pid);
}

/* Tell if a container has a runtime that expects signals, and signal it if it is to be `notified`. */
static bool has_runtime(int job, const char *name, bool notified)
{
	CLEANUP_FD int directory = openat(job, name, DIRECTORY);
	pid_t pid;

	if (directory < 0 || !read_pid(directory, &pid) || !expects_signal(pid))
		return false;
	if (notified)
		notify(pid);
	return true;
}

/* Tell if any container of the job has a runtime; they are signalled if they are to be `notified`. */
static bool has_runtimes(int job, bool notified)
{
	CLEANUP_DIR DIR *containers = NULL;
	int fd = openat(job, ".", DIRECTORY);
	bool found = false;

	if (fd < 0 || !(containers = fdopendir(fd))) {
		close_fd(&fd);
		return false;
	}
	for (struct dirent *entry; (entry = readdir(containers));)
		if (entry->d_name[0] != '.')
			found |= has_runtime(fd, entry->d_name, notified);
	return found;
}

static void notify_job(const char *path)
{
	CLEANUP_FD int job = open(path, DIRECTORY);
	CLEANUP_FD int mark = -1;

	if (job < 0)
		return;
	/* The mark comes first: a runtime that is about to start looks for it once it can be found here. */
	mark = openat(job, SIGNALLED_MARK, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	has_runtimes(job, true);
}

static bool is_marked(int job, const char *mark)
{
	return faccessat(job, mark, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Tell if nobody needs to be told of more signals; the step may be `ending`. */
static bool is_over(const char *path, bool ending)
{
	CLEANUP_FD int job = open(path, DIRECTORY);

	if (job < 0)
		return ending;
	return is_marked(job, ENDED_MARK) || (ending && (is_marked(job, REQUEUED_MARK) || !has_runtimes(job, false)));
}

/* Have a descriptor tell of runtimes that go, and of the job's marks. */
static int open_changes(const char *path)
{
	CLEANUP_FD int changes = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

	if (changes < 0 || inotify_add_watch(changes, path, IN_CREATE | IN_DELETE | IN_MOVED_TO) < 0)
		return -1;
	return take_fd(&changes);
}

static void drain(int changes)
{
	char events[4096];

	while (read(changes, events, sizeof(events)) > 0)
		;
}

/* Signals by which Slurm suspends jobs and has them go on, before each other signal too, and those of any process. */
static bool means_nothing(int number)
{
	static const int numbers[] = { SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH };

	for (size_t i = 0; i < COUNT(numbers); i++)
		if (numbers[i] == number)
			return true;
	return false;
}

static int open_signals(void)
{
	int numbers[NSIG];
	size_t count = 0;

	for (int number = 1; number < NSIG; number++)
		if (!means_nothing(number))
			numbers[count++] = number;
	return signals_open(numbers, count);
}

static int watch(int lifeline, int killed, const char *path)
{
	CLEANUP_FD int signals = open_signals();
	CLEANUP_FD int changes = open_changes(path);
	bool ending = false;
	struct pollfd events[] = {
		{ .fd = lifeline, .events = POLLIN },
		{ .fd = killed, .events = POLLIN },
		{ .fd = signals, .events = POLLIN },
		{ .fd = changes, .events = POLLIN },
	};

	if (signals < 0)
		return -1;
	while (!is_over(path, ending) && poll(events, COUNT(events), -1) > 0 && !events[0].revents &&
	       !events[1].revents) {
		int number = signals_next(signals);

		if (number)
			notify_job(path);
		ending |= number == SIGTERM;
		if (changes >= 0)
			drain(changes);
	}
	return 0;
}

int main(int argc, char **argv)
{
	CLEANUP_FD int lifeline = LIFELINE_FD;
	CLEANUP_FD int killed = KILL_FD;
	CLEANUP_TEXT char *path = NULL;
	uint32_t job, uid, gid;

	openlog("oci-criu-shim-watcher", LOG_PID | LOG_PERROR, LOG_DAEMON);
	if (argc != 4 || !parse_number(argv[1], UINT32_MAX, &job) || !parse_number(argv[2], UINT32_MAX - 1, &uid) ||
	    !parse_number(argv[3], UINT32_MAX - 1, &gid)) {
		syslog(LOG_ERR, "usage: watcher JOBID UID GID");
		return EXIT_FAILURE;
	}
	if (become_user(uid, gid) < 0 || asprintf(&path, JOB_DIRECTORY, job) < 0 || watch(lifeline, killed, path) < 0) {
		syslog(LOG_ERR, "job %" PRIu32 ": %m", job);
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
