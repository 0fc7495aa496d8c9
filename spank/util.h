/* Cleanup attributes, descriptors, time and numbers; no policy. */
#ifndef UTIL_H
#define UTIL_H

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static inline void close_fd(const int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	errno = saved;
}

/* Hand a descriptor on, out of reach of its cleanup. */
static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

static inline void close_file(FILE **file)
{
	if (*file)
		fclose(*file);
}

static inline void close_dir(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

static inline void free_text(char **text)
{
	free(*text);
}

#define EXPORTED __attribute__((visibility("default")))
#define UNUSED __attribute__((unused))
#define CLEANUP_FD __attribute__((cleanup(close_fd)))
#define CLEANUP_FILE __attribute__((cleanup(close_file)))
#define CLEANUP_DIR __attribute__((cleanup(close_dir)))
#define CLEANUP_TEXT __attribute__((cleanup(free_text)))

#define NANOSECONDS UINT64_C(1000000000) /* of a second */

/* Nanoseconds of a clock that nobody sets. */
static inline uint64_t nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NANOSECONDS + (uint64_t)now.tv_nsec;
}

/* Parse decimal digits, at most `max`; no sign, no space, no leading zero. */
static inline bool parse_number(const char *text, uint32_t max, uint32_t *number)
{
	uint64_t value = 0;

	if (!*text || (text[0] == '0' && text[1]))
		return false;
	for (const char *c = text; *c; c++) {
		if (*c < '0' || *c > '9')
			return false;
		value = value * 10 + (uint64_t)(*c - '0');
		if (value > max)
			return false;
	}
	*number = (uint32_t)value;
	return true;
}

#endif
