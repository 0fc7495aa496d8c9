/*
 * A user can do nothing to the file but be counted in it: it holds names that are written here and sums of numbers that
 * are bounded here. Helpers of several steps take turns by a lock that only root can open.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <syslog.h>
#include <time.h>

#include "metrics.h"
#include "protocol.h"
#include "util.h"

#define FILE_NAME "oci_criu_shim.prom"
#define NEW_NAME FILE_NAME ".new" /* the collector reads *.prom */
#define LOCK_NAME "." FILE_NAME ".lock"

/* Others hold the lock for a moment only; a dump that waits is worth more than a number. */
enum { LOCK_ATTEMPTS = 100, LOCK_PAUSE = 10000000 };

/* From SETUP on in the order of enum report_outcome. */
enum counter { DUMPS, BYTES, SECONDS, SETUP, REFUSED, CRIU, UNCOMMITTED, KILLED, COUNTERS };

#define FAILURES "oci_criu_shim_dump_failures_total"

static const struct {
	const char *family, *label;
	const char *help; /* with the first of its family */
} TABLE[COUNTERS] = {
	[DUMPS] = { "oci_criu_shim_dumps_total", "", "Dumps of containers that became checkpoints." },
	[BYTES] = { "oci_criu_shim_dump_bytes_total", "", "Bytes of CRIU's images in these." },
	[SECONDS] = { "oci_criu_shim_dump_seconds_total", "", "Seconds that these took, commits included." },
	[SETUP] = { FAILURES, "{cause=\"setup\"}", "Dumps that became none, by cause." },
	[REFUSED] = { FAILURES, "{cause=\"refused\"}", NULL },
	[CRIU] = { FAILURES, "{cause=\"criu\"}", NULL },
	[UNCOMMITTED] = { FAILURES, "{cause=\"uncommitted\"}", NULL },
	[KILLED] = { FAILURES, "{cause=\"killed\"}", NULL },
};

static void add(uint64_t *sum, uint64_t number)
{
	if (__builtin_add_overflow(*sum, number, sum))
		*sum = UINT64_MAX;
}

static int open_directory(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat found;

	if (fd >= 0 && fstat(fd, &found) == 0 && !(found.st_mode & S_IWOTH))
		return fd;
	if (fd >= 0)
		errno = EPERM;
	close_fd(&fd);
	return -1;
}

/* Take the lock; closing the descriptor gives it back. -1 and errno on failure. */
static int take_lock(int directory)
{
	const struct timespec pause = { .tv_nsec = LOCK_PAUSE };
	int fd = openat(directory, LOCK_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	struct stat found;

	if (fd < 0 || fstat(fd, &found) < 0)
		goto fail;
	errno = EPERM;
	if (found.st_uid != geteuid() || !S_ISREG(found.st_mode))
		goto fail;
	for (int attempt = 0; attempt < LOCK_ATTEMPTS; attempt++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return fd;
		nanosleep(&pause, NULL);
	}
fail:
	close_fd(&fd);
	return -1;
}

static uint64_t parse(enum counter counter, const char *text)
{
	char *rest;
	uint64_t number = strtoull(text, &rest, 10);

	if (counter != SECONDS)
		return number;
	if (number >= UINT64_MAX / NANOSECONDS)
		return UINT64_MAX;
	number *= NANOSECONDS;
	return *rest == '.' ? number + strtoull(rest + 1, NULL, 10) % NANOSECONDS : number;
}

static void read_line(const char *line, uint64_t *counters)
{
	for (enum counter i = 0; i < COUNTERS; i++) {
		const size_t family = strlen(TABLE[i].family), label = strlen(TABLE[i].label);

		if (!strncmp(line, TABLE[i].family, family) && !strncmp(line + family, TABLE[i].label, label) &&
		    line[family + label] == ' ')
			counters[i] = parse(i, line + family + label + 1);
	}
}

/* If there is no file, or it is not ours, counting begins at 0, which Prometheus takes for a restart. */
static void read_counters(int directory, uint64_t *counters)
{
	CLEANUP_FILE FILE *file = NULL;
	struct stat found;
	char line[256];
	int fd = openat(directory, FILE_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return;
	if (fstat(fd, &found) < 0 || !S_ISREG(found.st_mode) || !(file = fdopen(fd, "re"))) {
		close_fd(&fd);
		return;
	}
	while (fgets(line, sizeof(line), file))
		read_line(line, counters);
}

static void print(FILE *file, const uint64_t *counters)
{
	for (enum counter i = 0; i < COUNTERS; i++) {
		if (TABLE[i].help)
			fprintf(file, "# HELP %s %s\n# TYPE %s counter\n", TABLE[i].family, TABLE[i].help,
				TABLE[i].family);
		fprintf(file, "%s%s ", TABLE[i].family, TABLE[i].label);
		if (i == SECONDS)
			fprintf(file, "%" PRIu64 ".%09" PRIu64 "\n", counters[i] / NANOSECONDS,
				counters[i] % NANOSECONDS);
		else
			fprintf(file, "%" PRIu64 "\n", counters[i]);
	}
}

static int write_counters(int directory, const uint64_t *counters)
{
	FILE *file;
	int fd, failed;

	if (unlinkat(directory, NEW_NAME, 0) < 0 && errno != ENOENT)
		return -1;
	fd = openat(directory, NEW_NAME, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return -1;
	/* The umask is not the collector's. */
	if (fchmod(fd, 0644) < 0 || !(file = fdopen(fd, "w"))) {
		close_fd(&fd);
		return -1;
	}
	print(file, counters);
	failed = ferror(file);
	if (fclose(file) == EOF || failed)
		return -1;
	return renameat(directory, NEW_NAME, directory, FILE_NAME);
}

static int update(const char *path, const struct report *report)
{
	CLEANUP_FD int directory = open_directory(path);
	CLEANUP_FD int lock = directory < 0 ? -1 : take_lock(directory);
	uint64_t counters[COUNTERS] = { 0 };

	if (lock < 0)
		return -1;
	read_counters(directory, counters);
	if (report->outcome == REPORT_DONE) {
		add(&counters[DUMPS], 1);
		add(&counters[BYTES], report->bytes);
		add(&counters[SECONDS], report->nanoseconds);
	} else {
		add(&counters[SETUP + (report->outcome - REPORT_SETUP)], 1);
	}
	return write_counters(directory, counters);
}

/*
 * Read the next report. 1: there is one; 0: there is none; -1: it is not valid. Only the helper can find that a worker
 * was killed.
 */
static int next(int reports, struct report *report)
{
	const ssize_t got = read(reports, report, sizeof(*report));

	if (got <= 0)
		return 0;
	return got == sizeof(*report) && report->version == REPORT_VERSION && report->outcome < REPORT_KILLED ? 1 : -1;
}

/* The bound on an image's bytes: images are the user's files, and nothing keeps the user from making them longer. */
static uint64_t memory(void)
{
	struct sysinfo info;

	return sysinfo(&info) < 0 ? 0 : ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
}

void metrics_add(const char *directory, int reports, uint64_t lived)
{
	struct report report;
	int found = next(reports, &report);

	if (!found)
		return; /* no dump was asked for */
	if (found < 0 || report.outcome != REPORT_BEGUN)
		goto fail;
	if (!(found = next(reports, &report)))
		report = (struct report){ .outcome = REPORT_KILLED };
	else if (found < 0 || report.outcome == REPORT_BEGUN || report.nanoseconds > lived)
		goto fail;
	if (report.bytes > memory())
		report.bytes = memory();
	if (update(directory, &report) < 0)
		syslog(LOG_ERR, "metrics in %s: %m", directory);
	return;
fail:
	syslog(LOG_ERR, "a worker's report is none");
}
