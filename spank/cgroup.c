#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "cgroup.h"
#include "util.h"

/* Slurm's CgroupMountpoint; no other value is in use. */
#ifndef CGROUP_MOUNT_POINT
#define CGROUP_MOUNT_POINT "/sys/fs/cgroup"
#endif

#ifndef CGROUP_OF_SELF
#define CGROUP_OF_SELF "/proc/self/cgroup"
#endif

/* Below the job's group. */
#define EXTERN_STEP "/step_extern"

enum { LINE_SIZE = PATH_MAX + 256, BELOW_SIZE = NAME_MAX + 64 };

/* One line of /proc/self/cgroup (cgroups(7)). Version 2 has no controllers here. */
struct group {
	const char *controllers;
	char *path;
};

static bool parse_line(char *line, struct group *group)
{
	char *controllers = strchr(line, ':');
	char *path = controllers ? strchr(controllers + 1, ':') : NULL;

	if (!path)
		return false;
	*path = '\0';
	group->controllers = controllers + 1;
	group->path = path + 1;
	group->path[strcspn(group->path, "\n")] = '\0';
	return true;
}

static char *last(char *path, const char *mark)
{
	char *found = NULL;

	for (char *next = strstr(path, mark); next; next = strstr(next + 1, mark))
		found = next;
	return found;
}

/*
 * Cut the path down to the job's group; false if it has none. With version 1 slurmstepd is in the job's group,
 * …/job_JOB. With version 2 it is in …/step_STEP/slurm below the job's group, which may have another name
 * (CgroupJobIdPaths of 26.05).
 */
static bool cut_to_job(const struct group *group)
{
	const bool first = *group->controllers;
	char *end = last(group->path, first ? "/job_" : "/step_");

	if (end && first)
		end += 1 + strcspn(end + 1, "/");
	if (!end || end == group->path)
		return false;
	*end = '\0';
	return true;
}

/* Find the group by which Slurm tracks the job's processes; false and errno if this slurmstepd is no job's. */
static bool find_job(char line[LINE_SIZE], struct group *group)
{
	CLEANUP_FILE FILE *file = fopen(CGROUP_OF_SELF, "re");

	if (!file)
		return false;
	while (fgets(line, LINE_SIZE, file))
		if (parse_line(line, group) && (!*group->controllers || !strcmp(group->controllers, "freezer")) &&
		    cut_to_job(group))
			return true;
	errno = ENOENT;
	return false;
}

static int print_path(char path[PATH_MAX], const char *controllers, const char *group, const char *name)
{
	const char *slash = *controllers ? "/" : "";

	if (snprintf(path, PATH_MAX, CGROUP_MOUNT_POINT "%s%s%s%s", slash, controllers, group, name) < PATH_MAX)
		return 0;
	errno = ENAMETOOLONG;
	return -1;
}

static int open_file(const char *controllers, const char *group, const char *below, const char *name)
{
	char file[BELOW_SIZE], path[PATH_MAX];

	snprintf(file, sizeof(file), "%s/%s", below, name);
	return print_path(path, controllers, group, file) < 0 ? -1 : open(path, O_WRONLY | O_CLOEXEC);
}

static int attach(const char *controllers, const char *group, const char *below, pid_t pid)
{
	CLEANUP_FD int fd = open_file(controllers, group, below, "cgroup.procs");

	return fd < 0 || dprintf(fd, "%d", pid) < 0 ? -1 : 0;
}

/*
 * proctrack/cgroup signals the direct children of slurmstepd that are in the step's group. With version 1 slurmstepd
 * itself is one level up, in the job's group; with version 2 it is in the step's group, and so are its children from
 * the start.
 */
int cgroup_enter_extern_step(pid_t pid)
{
	char line[LINE_SIZE];
	struct group job;

	if (!find_job(line, &job))
		return -1;
	return *job.controllers ? attach(job.controllers, job.path, EXTERN_STEP, pid) : 0;
}

int cgroup_watch_kill(void)
{
	CLEANUP_FD int fd = inotify_init1(IN_CLOEXEC);
	char line[LINE_SIZE], path[PATH_MAX];
	struct group job;

	if (fd < 0 || !find_job(line, &job))
		return -1;
	if (*job.controllers)
		return take_fd(&fd);
	if (print_path(path, "", job.path, EXTERN_STEP "/user/cgroup.kill") < 0)
		return -1;
	/* Linux has the file since 5.14; without it Slurm kills one process after the other. */
	if (inotify_add_watch(fd, path, IN_MODIFY) < 0 && errno != ENOENT)
		return -1;
	return take_fd(&fd);
}

/*
 * Version 1: move to the root of the hierarchy. Version 2, in which processes can only be in leaves: move to the group
 * that Slurm keeps for itself beside the jobs' groups.
 */
static int leave_job(const struct group *job, pid_t pid)
{
	if (*job->controllers)
		return attach(job->controllers, "", "", pid);
	*strrchr(job->path, '/') = '\0';
	return attach(job->controllers, job->path, "/system", pid);
}

int cgroup_leave_job(pid_t pid)
{
	CLEANUP_FILE FILE *file = fopen(CGROUP_OF_SELF, "re");
	char line[LINE_SIZE];
	struct group group;

	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file))
		if (parse_line(line, &group) && cut_to_job(&group) && leave_job(&group, pid) < 0)
			return -1;
	return 0;
}

char *cgroup_of_job(void)
{
	char line[LINE_SIZE], *text;
	struct group job;

	if (!find_job(line, &job))
		return NULL;
	return asprintf(&text, "%s:%s", job.controllers, job.path) < 0 ? NULL : text;
}

void cgroup_close(struct groups *groups)
{
	while (groups->count > 0)
		close_fd(&groups->fds[--groups->count]);
}

/*
 * Open a group for a process of one thread. By `tasks`, which version 2 does not have, the process enters without
 * waiting for the node's other processes.
 */
static int open_group(const char *controllers, const char *group)
{
	return open_file(controllers, group, "", *controllers ? "tasks" : "cgroup.procs");
}

static int add(struct groups *groups, int fd)
{
	if (fd < 0)
		return -1;
	if (groups->count == MAX_HIERARCHIES) {
		close_fd(&fd);
		errno = EMFILE;
		return -1;
	}
	groups->fds[groups->count++] = fd;
	return 0;
}

/*
 * Version 1: the job's own group, above those of its steps. Slurm always makes it in the freezer's hierarchy, and in
 * others if it is configured to.
 */
static int open_hierarchy(const char *controllers, const char *job, struct groups *groups)
{
	int fd = open_group(controllers, job);

	if (fd < 0 && errno == ENOENT && strcmp(controllers, "freezer") != 0)
		return 0;
	return add(groups, fd);
}

static int open_hierarchies(const char *job, struct groups *groups)
{
	CLEANUP_FILE FILE *file = fopen(CGROUP_OF_SELF, "re");
	char line[LINE_SIZE];
	struct group group;

	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file))
		if (parse_line(line, &group) && *group.controllers &&
		    open_hierarchy(group.controllers, job, groups) < 0)
			return -1;
	return 0;
}

/*
 * Version 2, in which processes can only be in leaves: this slurmstepd's own leaf. It is in the job's limits, and not
 * among the processes of the step, which Slurm signals. -1 and ENOENT if it has none.
 */
static int open_own_leaf(const char *job)
{
	CLEANUP_FILE FILE *file = fopen(CGROUP_OF_SELF, "re");
	const size_t length = strlen(job);
	char line[LINE_SIZE];
	struct group group;

	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file))
		if (parse_line(line, &group) && !*group.controllers && !strncmp(group.path, job, length) &&
		    !strncmp(group.path + length, "/step_", 6))
			return open_group("", group.path);
	errno = ENOENT;
	return -1;
}

int cgroup_open_job(const char *job, struct groups *groups)
{
	const char *path = strchr(job, ':') + 1;

	return *job == ':' ? add(groups, open_own_leaf(path)) : open_hierarchies(path, groups);
}

void cgroup_remove_job(const char *job)
{
	CLEANUP_FILE FILE *file = fopen(CGROUP_OF_SELF, "re");
	char line[LINE_SIZE], path[PATH_MAX];
	struct group group;

	while (file && *job != ':' && fgets(line, sizeof(line), file))
		if (parse_line(line, &group) && *group.controllers &&
		    print_path(path, group.controllers, strchr(job, ':') + 1, "") == 0)
			rmdir(path);
}
