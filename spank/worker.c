#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "paths.h"
#include "privileges.h"
#include "protocol.h"
#include "util.h"
#include "worker.h"

/* Enter the job's groups, as root, who alone can leave them again. */
static int enter_groups(size_t hierarchies)
{
	for (size_t i = 0; i < hierarchies; i++)
		if (write(GROUPS_FD + (int)i, "0", 1) != 1)
			return -1;
	return 0;
}

/*
 * A dump's memory is the job's. If that is too little, the kernel is to end the dump and not the job's program, which
 * goes on without a checkpoint. The processes are the user's, who can't lower what root has set.
 */
static int be_first_out_of_memory(void)
{
	CLEANUP_FD int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, "1000", 4) != 4 ? -1 : 0;
}

/* Leave the other mounts: nobody else sees what a dump mounts. */
static int leave_mounts(void)
{
	return unshare(CLONE_NEWNS) < 0 ? -1 : mount("none", "/", "", MS_SLAVE | MS_REC, NULL);
}

static int keep_only(int connection, int report)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return -1;
	/* Move them out of the way of 0 to 4. */
	if ((connection = fcntl(connection, F_DUPFD_CLOEXEC, REPORT_FD + 1)) < 0)
		return -1;
	if (report >= 0 && (report = fcntl(report, F_DUPFD_CLOEXEC, REPORT_FD + 1)) < 0)
		return -1;
	for (int fd = 0; fd < CONNECTION_FD; fd++)
		if (dup2(null, fd) < 0)
			return -1;
	if (dup2(connection, CONNECTION_FD) < 0)
		return -1;
	if (report >= 0 && dup2(report, REPORT_FD) < 0)
		return -1;
	return close_range(report >= 0 ? REPORT_FD + 1 : REPORT_FD, ~0U, 0);
}

static int set_surroundings(void)
{
	const struct rlimit no_core = { 0, 0 };

	umask(077);
	if (setsid() < 0 || chdir("/") < 0)
		return -1;
	return setrlimit(RLIMIT_CORE, &no_core);
}

/* End if the helper itself is killed. This is lost at a change of ids, but not at an exec that gives no right. */
static int end_with_helper(pid_t helper)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return -1;
	if (getppid() == helper)
		return 0;
	errno = ESRCH;
	return -1;
}

/*
 * Ignore what Slurm means for the job's programs: it may signal all that is in a step (SignalChildrenProcesses of
 * cgroup.conf).
 */
static void ignore_signals(void)
{
	const int slurms[] = { SIGHUP, SIGINT, SIGQUIT, SIGALRM, SIGTERM, SIGUSR1, SIGUSR2 };

	for (size_t i = 0; i < COUNT(slurms); i++)
		signal(slurms[i], SIG_IGN);
}

static int unblock_signals(void)
{
	sigset_t none;

	sigemptyset(&none);
	return sigprocmask(SIG_SETMASK, &none, NULL);
}

void worker_run(const struct worker_identity *identity, int connection, int report)
{
	char job[12], key[sizeof(KEY_VARIABLE "=") + KEY_SIZE];
	/* No HOME: criu would read $HOME/.criu/default.conf. */
	char *const environment[] = { PROGRAMS_PATH, "LANG=C.UTF-8", key, NULL };
	char *const more = report >= 0 ? "report" : NULL;
	char *const argv[] = { WORKER_PYTHON, "-I", "-S", WORKER_SCRIPT, job, (char *)identity->group, more, NULL };

	snprintf(job, sizeof(job), "%" PRIu32, identity->job);
	snprintf(key, sizeof(key), KEY_VARIABLE "=%s", identity->key);
	if (enter_groups(identity->hierarchies) < 0) {
		syslog(LOG_ERR, "the control groups of job %s: %m", job);
		_exit(EXIT_FAILURE);
	}
	if (be_first_out_of_memory() < 0 || leave_mounts() < 0 || keep_only(connection, report) < 0)
		goto fail;
	if (set_surroundings() < 0)
		goto fail;
	if (become_dumper(identity->uid, identity->gid) < 0 || end_with_helper(identity->helper) < 0)
		goto fail;
	ignore_signals();
	if (unblock_signals() < 0)
		goto fail;
	execve(argv[0], argv, environment);
fail:
	syslog(LOG_ERR, "worker: %m");
	_exit(EXIT_FAILURE);
}
