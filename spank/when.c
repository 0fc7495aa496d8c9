#define _GNU_SOURCE
#include <string.h>

#include "util.h"
#include "when.h"

static bool is_one_of(const char *text, const char *const words[], size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (!strcmp(text, words[i]))
			return true;
	return false;
}

bool when_is_never(const char *text)
{
	static const char *const WORDS[] = { "none", "off" };

	return is_one_of(text, WORDS, COUNT(WORDS));
}

/* Return what comes after a number; NULL if there is none. `positive` becomes true if it is not 0. */
static const char *past_number(const char *text, bool *positive)
{
	const size_t digits = strspn(text, "0123456789");

	*positive |= strspn(text, "0") < digits;
	return digits && digits < 10 ? text + digits : NULL;
}

/* Numbers that each have a unit, smaller than the one before: 90s, 1h30m. */
static bool is_by_units(const char *text)
{
	const char *units = "wdhms";
	bool positive = false;

	do {
		const char *unit;

		if (!(text = past_number(text, &positive)) || !*text || !(unit = strchr(units, *text)))
			return false;
		units = unit + 1;
		text++;
	} while (*text);
	return positive;
}

/* One of Slurm's times: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S. */
static bool is_by_places(const char *text)
{
	const char *dash = strchr(text, '-');
	bool positive = false;

	if (dash && past_number(text, &positive) != dash)
		return false;
	text = dash ? dash + 1 : text;
	for (int place = 0; place < 3; place++) {
		if (!(text = past_number(text, &positive)))
			return false;
		if (!*text)
			return positive;
		if (*text++ != ':')
			return false;
	}
	return false;
}

bool when_is_interval(const char *text)
{
	return !strcmp(text, "auto") || is_by_units(text) || is_by_places(text);
}

/* Only signals that mean nothing else to a runtime or to Slurm. */
static bool is_signal(const char *text)
{
	static const char *const NAMES[] = { "HUP", "INT", "QUIT", "ALRM", "URG", "USR1", "USR2" };

	return is_one_of(strncmp(text, "SIG", 3) ? text : text + 3, NAMES, COUNT(NAMES));
}

static bool is_item(const char *item)
{
	static const char *const WORDS[] = { "preempt", "timeout" };

	if (!strncmp(item, "interval:", 9))
		return when_is_interval(item + 9);
	if (!strncmp(item, "signal:", 7))
		return is_signal(item + 7);
	return is_one_of(item, WORDS, COUNT(WORDS));
}

char *when_wrong_item(const char *text)
{
	CLEANUP_TEXT char *copy = strdup(text);
	char *rest = copy;

	for (char *item; (item = strsep(&rest, ","));)
		if (!is_item(item))
			return strdup(item);
	return NULL;
}
