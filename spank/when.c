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

bool when_is_interval(const char *text)
{
	const size_t digits = strspn(text, "0123456789");

	if (!strcmp(text, "auto"))
		return true;
	return digits > 0 && digits < 10 && strspn(text, "0") < digits && text[digits] &&
	       strchr("smhdw", text[digits]) && !text[digits + 1];
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

bool when_is_list(const char *text)
{
	CLEANUP_TEXT char *copy = strdup(text);
	char *rest = copy;

	for (char *item; (item = strsep(&rest, ","));)
		if (!is_item(item))
			return false;
	return copy != NULL;
}
