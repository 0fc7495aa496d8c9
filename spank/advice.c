#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <slurm/spank.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "advice.h"
#include "util.h"

#define PREFIX "oci-criu-shim: "

static bool may_make(const char *path)
{
	CLEANUP_TEXT char *parent = strdup(path);
	char *slash;

	for (size_t length = parent ? strlen(parent) : 0; length > 1 && parent[length - 1] == '/'; length--)
		parent[length - 1] = '\0';
	if (!parent || !(slash = strrchr(parent, '/')))
		return false;
	slash[slash == parent] = '\0';
	return access(parent, W_OK | X_OK) == 0;
}

void advice_on_directory(const char *directory, bool relative)
{
	struct stat found;

	if (relative)
		slurm_spank_log(PREFIX "--checkpoint-dir is not an absolute path: it means %s", directory);
	if (stat(directory, &found) < 0) {
		if (errno != ENOENT || !may_make(directory))
			slurm_spank_log(PREFIX
					"--checkpoint-dir=%s: %s, and you can't make it on this host: is it there "
					"on the nodes?",
					directory, strerror(errno));
	} else if (!S_ISDIR(found.st_mode)) {
		slurm_spank_log(PREFIX "--checkpoint-dir=%s is not a directory on this host", directory);
	} else if (access(directory, W_OK | X_OK) < 0) {
		slurm_spank_log(PREFIX "--checkpoint-dir=%s: you can't write there on this host: %s", directory,
				strerror(errno));
	}
}

/* Tell if one of a job's tasks, of any step, has the checkpoint. */
static bool has_checkpoint(int job, const char *seq)
{
	CLEANUP_DIR DIR *tasks = fdopendir(dup(job));

	for (struct dirent *task; tasks && (task = readdir(tasks));) {
		CLEANUP_FD int fd = openat(job, task->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (*task->d_name != '.' && fd >= 0 && faccessat(fd, seq, F_OK, 0) == 0)
			return true;
	}
	return false;
}

static bool is_in(const char *directory, const char *job)
{
	CLEANUP_TEXT char *name = strdup(job);
	CLEANUP_FD int base = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	CLEANUP_FD int fd = -1;
	char *colon;

	/* What can't be looked into is no reason for a warning. An array's job is kept under another number. */
	if (!name || base < 0 || strchr(name, '_'))
		return true;
	if ((colon = strchr(name, ':')))
		*colon = '\0';
	if ((fd = openat(base, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		return errno != ENOENT;
	return !colon || has_checkpoint(fd, colon + 1);
}

void advice_on_source(const char *source, bool is_job, const char *directory)
{
	if (!is_job && access(source, F_OK) < 0)
		slurm_spank_log(PREFIX "--restart-dir=%s: %s on this host", source, strerror(errno));
	else if (is_job && directory && !is_in(directory, source))
		slurm_spank_log(PREFIX "--restart-dir=%s: there is no such checkpoint in %s on this host", source,
				directory);
}
