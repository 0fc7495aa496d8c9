/*
 * fake_slurm PLUGIN CONTEXT [NAME=VALUE ...]: load the plugin, call its hooks as Slurm does in a context (local,
 * remote, prolog or epilog), and print the results of the hooks and what the plugin has set and said.
 *
 * job, step, uid, gid and groups (with commas between) tell the step. option:NAME=VALUE is an option that the user
 * gave, option:NAME one without a value, and argument:TEXT an argument of the plugin in plugstack.conf. `lines` is the
 * number of its lines there, 1 if it is not given. In the remote context the program goes on like slurmstepd until its
 * standard input ends; then a task has ended.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <slurm/spank.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_OPTIONS = 16, MAX_GROUPS = 16, MAX_ARGUMENTS = 4, MAX_WORDS = 4 };

static struct {
	const char *context;
	uint32_t job, step;
	uid_t uid;
	gid_t gid;
	gid_t groups[MAX_GROUPS];
	int group_count;
	struct {
		const char *name, *value;
	} given[MAX_OPTIONS];
	int given_count;
	struct spank_option registered[MAX_OPTIONS];
	int registered_count;
	char *arguments[MAX_ARGUMENTS];
	int argument_count;
	char *words[MAX_WORDS + 1]; /* of a task; without any, none is started */
	int word_count;
	uint32_t lines;
} slurm = { .lines = 1 };

static bool in(const char *context)
{
	return !strcmp(slurm.context, context);
}

/* The plugin's side. */

void slurm_error(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fprintf(stderr, "error: ");
	vfprintf(stderr, format, arguments);
	fprintf(stderr, "\n");
	va_end(arguments);
}

void slurm_spank_log(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	printf("said ");
	vprintf(format, arguments);
	printf("\n");
	va_end(arguments);
}

const char *spank_strerror(spank_err_t error)
{
	static char text[32];

	snprintf(text, sizeof(text), "spank error %d", error);
	return text;
}

spank_context_t spank_context(void)
{
	if (in("local"))
		return S_CTX_LOCAL;
	return in("remote") ? S_CTX_REMOTE : S_CTX_JOB_SCRIPT;
}

int spank_remote(spank_t sp)
{
	(void)sp;
	return in("remote");
}

spank_err_t spank_option_register(spank_t sp, struct spank_option *option)
{
	(void)sp;
	for (int i = 0; i < slurm.registered_count; i++)
		if (!strcmp(slurm.registered[i].name, option->name)) {
			fprintf(stderr, "spank: option \"%s\" provided by both\n", option->name);
			return ESPANK_SUCCESS;
		}
	slurm.registered[slurm.registered_count++] = *option;
	return ESPANK_SUCCESS;
}

spank_err_t spank_option_getopt(spank_t sp, struct spank_option *option, char **argument)
{
	(void)sp;
	for (int i = 0; i < slurm.given_count; i++)
		if (!strcmp(slurm.given[i].name, option->name)) {
			*argument = (char *)slurm.given[i].value;
			return ESPANK_SUCCESS;
		}
	return ESPANK_ERROR;
}

spank_err_t spank_get_item(spank_t sp, spank_item_t item, ...)
{
	spank_err_t rc = ESPANK_SUCCESS;
	va_list arguments;

	(void)sp;
	va_start(arguments, item);
	switch (item) {
	case S_JOB_ID:
		*va_arg(arguments, uint32_t *) = slurm.job;
		break;
	case S_JOB_STEPID:
		*va_arg(arguments, uint32_t *) = slurm.step;
		break;
	case S_JOB_UID:
		*va_arg(arguments, uid_t *) = slurm.uid;
		break;
	case S_JOB_GID:
		*va_arg(arguments, gid_t *) = slurm.gid;
		break;
	case S_JOB_SUPPLEMENTARY_GIDS:
		*va_arg(arguments, gid_t **) = slurm.groups;
		*va_arg(arguments, int *) = slurm.group_count;
		break;
	case S_JOB_ARGV:
		*va_arg(arguments, int *) = slurm.word_count;
		*va_arg(arguments, char ***) = slurm.words;
		break;
	default:
		rc = ESPANK_BAD_ARG;
	}
	va_end(arguments);
	return rc;
}

/* The environment of the step is that of this process. */

spank_err_t spank_getenv(spank_t sp, const char *name, char *value, int size)
{
	const char *found = getenv(name);

	(void)sp;
	if (!found)
		return ESPANK_ENV_NOEXIST;
	return snprintf(value, (size_t)size, "%s", found) < size ? ESPANK_SUCCESS : ESPANK_NOSPACE;
}

spank_err_t spank_setenv(spank_t sp, const char *name, const char *value, int overwrite)
{
	(void)sp;
	return setenv(name, value, overwrite) < 0 ? ESPANK_ERROR : ESPANK_SUCCESS;
}

spank_err_t spank_unsetenv(spank_t sp, const char *name)
{
	(void)sp;
	return unsetenv(name) < 0 ? ESPANK_ERROR : ESPANK_SUCCESS;
}

spank_err_t spank_job_control_setenv(spank_t sp, const char *name, const char *value, int overwrite)
{
	(void)sp;
	(void)overwrite;
	printf("control %s=%s\n", name, value);
	return ESPANK_SUCCESS;
}

/* Slurm's side. */

static int call(void *plugin, const char *hook)
{
	spank_f *function;
	int rc = 0;

	*(void **)&function = dlsym(plugin, hook);
	if (!function)
		return 0;
	for (uint32_t i = 0; i < slurm.lines && rc == 0; i++)
		rc = function(NULL, slurm.argument_count, slurm.arguments);
	printf("%s %d\n", hook, rc);
	return rc;
}

static bool take_option(const char *name, const char *value)
{
	for (int i = 0; i < slurm.registered_count; i++) {
		const struct spank_option *option = &slurm.registered[i];

		if (!strcmp(option->name, name))
			return option->cb(option->val, value, in("remote")) == 0;
	}
	return false;
}

static bool take_options(void)
{
	bool all = true;

	for (int i = 0; i < slurm.given_count; i++)
		if (!take_option(slurm.given[i].name, slurm.given[i].value))
			all = false;
	printf("options %d\n", all);
	return all;
}

static void print_environment(void)
{
	for (char **entry = environ; *entry; entry++)
		if (strstr(*entry, "SLURM_") || strstr(*entry, "OCI_CRIU_SHIM_"))
			printf("env %s\n", *entry);
}

static void run_local(void *plugin)
{
	if (call(plugin, "slurm_spank_init") == 0 && take_options())
		call(plugin, "slurm_spank_init_post_opt");
	print_environment();
	call(plugin, "slurm_spank_exit");
}

static void run_remote(void *plugin)
{
	call(plugin, "slurm_spank_init");
	take_options();
	call(plugin, "slurm_spank_init_post_opt");
	if (slurm.word_count)
		call(plugin, "slurm_spank_task_init");
	for (int i = 0; i < slurm.word_count; i++)
		printf("word %s\n", slurm.words[i]);
	print_environment();
	printf("ready\n");
	fflush(stdout);
	while (getchar() != EOF)
		;
	call(plugin, "slurm_spank_task_exit");
	call(plugin, "slurm_spank_exit");
}

static void take_argument(char *argument)
{
	char *value = strchr(argument, '=');

	if (!strncmp(argument, "argument:", 9)) {
		slurm.arguments[slurm.argument_count++] = argument + 9;
		return;
	}
	if (!strncmp(argument, "word:", 5)) {
		slurm.words[slurm.word_count++] = argument + 5;
		return;
	}
	if (value)
		*value++ = '\0';
	if (!strncmp(argument, "option:", 7)) {
		slurm.given[slurm.given_count].name = argument + 7;
		slurm.given[slurm.given_count++].value = value;
	} else if (!strcmp(argument, "job")) {
		slurm.job = (uint32_t)strtoul(value, NULL, 10);
	} else if (!strcmp(argument, "step")) {
		slurm.step = (uint32_t)strtoul(value, NULL, 10);
	} else if (!strcmp(argument, "lines")) {
		slurm.lines = (uint32_t)strtoul(value, NULL, 10);
	} else if (!strcmp(argument, "uid")) {
		slurm.uid = (uid_t)strtoul(value, NULL, 10);
	} else if (!strcmp(argument, "gid")) {
		slurm.gid = (gid_t)strtoul(value, NULL, 10);
	} else if (!strcmp(argument, "groups")) {
		for (char *group = strtok(value, ","); group; group = strtok(NULL, ","))
			slurm.groups[slurm.group_count++] = (gid_t)strtoul(group, NULL, 10);
	}
}

int main(int argc, char **argv)
{
	void *plugin = argc > 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;

	if (!plugin) {
		fprintf(stderr, "%s\n", argc > 2 ? dlerror() : "usage: fake_slurm PLUGIN CONTEXT [NAME=VALUE ...]");
		return EXIT_FAILURE;
	}
	slurm.context = argv[2];
	for (int i = 3; i < argc; i++)
		take_argument(argv[i]);
	if (in("local"))
		run_local(plugin);
	else if (in("remote"))
		run_remote(plugin);
	else
		call(plugin, in("prolog") ? "slurm_spank_job_prolog" : "slurm_spank_job_epilog");
	return dlclose(plugin) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
