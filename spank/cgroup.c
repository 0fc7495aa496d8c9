#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "cgroup.h"
#include "util.h"

/* Slurm's CgroupMountpoint, of which no other value is in use. */
#ifndef CGROUP_MOUNT_POINT
#define CGROUP_MOUNT_POINT "/sys/fs/cgroup"
#endif

#ifndef CGROUP_OF_SELF
#define CGROUP_OF_SELF "/proc/self/cgroup"
#endif

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

/* The "/job_…" in the path; slurmstepd is in there or, with version 1, just there. */
static char *job_part(const struct group *group)
{
	return strstr(group->path, "/job_");
}

static int attach(const struct group *group, const char *path, pid_t pid)
{
	CLEANUP_FD int fd = -1;
	char procs[PATH_MAX];
	const char *slash = *group->controllers ? "/" : "";

	if (snprintf(procs, sizeof(procs), CGROUP_MOUNT_POINT "%s%s%s/cgroup.procs", slash, group->controllers, path) >=
	    (int)sizeof(procs)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	if ((fd = open(procs, O_WRONLY | O_CLOEXEC)) < 0)
		return -1;
	return dprintf(fd, "%d", pid) < 0 ? -1 : 0;
}

/*
 * proctrack/cgroup signals those direct children of slurmstepd that are in the step's group. With version 1 slurmstepd
 * itself is one level up, in the job's group; with version 2 it is in the step's, and so are its children from the start.
 */
static int enter_extern_step(const struct group *group, pid_t pid)
{
	CLEANUP_TEXT char *path = NULL;
	char *job = job_part(group);

	if (!*group->controllers)
		return 0;
	job[1 + strcspn(job + 1, "/")] = '\0';
	if (asprintf(&path, "%s/step_extern", group->path) < 0)
		return -1;
	return attach(group, path, pid);
}

int cgroup_enter_extern_step(pid_t pid)
{
	CLEANUP_FILE FILE *file = fopen(CGROUP_OF_SELF, "re");
	char line[PATH_MAX + 256];
	struct group group;

	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file)) {
		if (!parse_line(line, &group) || !job_part(&group))
			continue;
		if (!*group.controllers || !strcmp(group.controllers, "freezer"))
			return enter_extern_step(&group, pid);
	}
	errno = ENOENT;
	return -1;
}

/*
 * Version 1: the root of the hierarchy. Version 2: processes can only be in leaves; beside the jobs' groups Slurm keeps one
 * for its own use.
 */
static int leave_job(const struct group *group, pid_t pid)
{
	CLEANUP_TEXT char *path = NULL;

	if (*group->controllers)
		return attach(group, "", pid);
	*job_part(group) = '\0';
	if (asprintf(&path, "%s/system", group->path) < 0)
		return -1;
	return attach(group, path, pid);
}

int cgroup_leave_job(pid_t pid)
{
	CLEANUP_FILE FILE *file = fopen(CGROUP_OF_SELF, "re");
	char line[PATH_MAX + 256];
	struct group group;

	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file))
		if (parse_line(line, &group) && job_part(&group) && leave_job(&group, pid) < 0)
			return -1;
	return 0;
}
