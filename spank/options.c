#define _GNU_SOURCE
#include <limits.h>
#include <string.h>

#include "advice.h"
#include "options.h"
#include "util.h"
#include "when.h"

/*
 * Slurm gives an option's value to the job in a variable with this prefix, and to srun in the job in one with
 * SLURM_SPANK_ before the prefix.
 */
#define FORWARD_PREFIX "_SLURM_SPANK_OPTION_oci_criu_shim_"

enum {
	CHECKPOINT,
	CHECKPOINT_DIR,
	CHECKPOINT_HOOK,
	CHECKPOINT_INTERVAL,
	CHECKPOINT_KEEP,
	CHECKPOINT_RERUN,
	CHECKPOINT_TCP,
	RESTART_DIR,
	OPTION_COUNT
};
enum { NO_ARGUMENT, REQUIRED_ARGUMENT, OPTIONAL_ARGUMENT };

static const char *accept_when(const char *argument);
static const char *accept_path(const char *argument);
static const char *accept_command(const char *argument);
static const char *accept_interval(const char *argument);
static const char *accept_count(const char *argument);
static const char *accept_rerun(const char *argument);
static const char *accept_tcp(const char *argument);
static const char *accept_source(const char *argument);
static int take(int row, const char *argument, int remote);

static const struct {
	const char *variable;		     /* of the step's environment */
	const char *forward;		     /* see FORWARD_PREFIX */
	const char *(*accept)(const char *); /* the argument's value; NULL and a logged reason if it is refused */
	bool is_path;
	struct spank_option option;
} TABLE[OPTION_COUNT] = {
	[CHECKPOINT] = {
		"SLURM_CHECKPOINT", FORWARD_PREFIX "checkpoint", accept_when, false,
		{"checkpoint", "[WHEN]",
		 "checkpoint the job's tasks, and resume them when the job starts again; WHEN is one or more, "
		 "with commas between, of preempt (before the job is preempted), timeout (before its time limit; it "
		 "is then requeued), interval:TIME (every 90s, 1h30m, or auto) and signal:NAME (when the step gets "
		 "that signal), or it is none; the site sets the default: preempt",
		 OPTIONAL_ARGUMENT, CHECKPOINT, take},
	},
	[CHECKPOINT_DIR] = {
		"SLURM_CHECKPOINT_DIR", FORWARD_PREFIX "checkpoint_dir", accept_path, true,
		{"checkpoint-dir", "DIR",
		 "keep the job's checkpoints below DIR, which must be the same directory on all nodes; the site sets "
		 "the default",
		 REQUIRED_ARGUMENT, CHECKPOINT_DIR, take},
	},
	[CHECKPOINT_HOOK] = {
		"SLURM_CHECKPOINT_HOOK", FORWARD_PREFIX "checkpoint_hook", accept_command, false,
		{"checkpoint-hook", "COMMAND",
		 "run COMMAND in the container, by its /bin/sh, before each checkpoint, after it if the container "
		 "runs on, and after it was resumed; OCI_CRIU_SHIM_HOOK tells which: pre-dump, post-dump or "
		 "post-restore",
		 REQUIRED_ARGUMENT, CHECKPOINT_HOOK, take},
	},
	[CHECKPOINT_INTERVAL] = {
		"SLURM_CHECKPOINT_INTERVAL", FORWARD_PREFIX "checkpoint_interval", accept_interval, false,
		{"checkpoint-interval", "TIME",
		 "checkpoint the job's tasks also every TIME: 90s, 1h30m, or auto, which weighs the cost of "
		 "checkpoints against that of a node's failure",
		 REQUIRED_ARGUMENT, CHECKPOINT_INTERVAL, take},
	},
	[CHECKPOINT_KEEP] = {
		"SLURM_CHECKPOINT_KEEP", FORWARD_PREFIX "checkpoint_keep", accept_count, false,
		{"checkpoint-keep", "N",
		 "keep the newest N checkpoints of each task; the site sets the default",
		 REQUIRED_ARGUMENT, CHECKPOINT_KEEP, take},
	},
	[CHECKPOINT_RERUN] = {
		"SLURM_CHECKPOINT_RERUN", FORWARD_PREFIX "checkpoint_rerun", accept_rerun, false,
		{"checkpoint-rerun", NULL,
		 "when the job starts again, run its finished steps again, too",
		 NO_ARGUMENT, CHECKPOINT_RERUN, take},
	},
	[CHECKPOINT_TCP] = {
		"SLURM_CHECKPOINT_TCP", FORWARD_PREFIX "checkpoint_tcp", accept_tcp, false,
		{"checkpoint-tcp", "close|refuse",
		 "what becomes of open TCP connections to others in the node's network: the restored program finds them reset "
		 "(close), or as long as there are any, no checkpoint is taken (refuse); the site sets the default: close",
		 REQUIRED_ARGUMENT, CHECKPOINT_TCP, take},
	},
	[RESTART_DIR] = {
		"SLURM_RESTART_DIR", FORWARD_PREFIX "restart_dir", accept_source, true,
		{"restart-dir", "DIR|JOBID[:SEQ]",
		 "start from a checkpoint of another job: the one in DIR, the newest of JOBID, or its number SEQ",
		 REQUIRED_ARGUMENT, RESTART_DIR, take},
	},
};

static bool registered;

/* Static, since callbacks of options get no context but their number. */
static char *values[OPTION_COUNT];
static bool made_absolute[OPTION_COUNT];

static void set_value(int row, char *value)
{
	free(values[row]);
	values[row] = value;
}

static const char *accept_when(const char *argument)
{
	CLEANUP_TEXT char *wrong = NULL;

	/*
	 * An absent argument becomes "" or "(null)" on its way through the environment (Slurm 24.11,
	 * spank_set_job_env).
	 */
	if (!argument || !*argument || !strcmp(argument, "(null)"))
		return "default";
	if (when_is_never(argument))
		return "off";
	if (!strcmp(argument, "default") || !(wrong = when_wrong_item(argument)))
		return argument;
	slurm_error(
		"--checkpoint=%s: '%s' is no value of --checkpoint; allowed are preempt, timeout, interval:TIME (90s, "
		"1h30m, 0:30:00, auto), signal:NAME (USR1, …), with commas between, or none",
		argument, wrong);
	return NULL;
}

static const char *accept_interval(const char *argument)
{
	if (argument && when_is_interval(argument))
		return argument;
	slurm_error("--checkpoint-interval=%s: not an interval; allowed are 90s, 1h30m, 0:30:00 and the like, or auto",
		    argument ? argument : "");
	return NULL;
}

static const char *accept_count(const char *argument)
{
	uint32_t count;

	if (argument && parse_number(argument, 1000, &count) && count > 0)
		return argument;
	slurm_error("--checkpoint-keep=%s: not a number from 1 to 1000", argument ? argument : "");
	return NULL;
}

static const char *accept_rerun(UNUSED const char *argument)
{
	return "yes";
}

static const char *accept_tcp(const char *argument)
{
	if (argument && (!strcmp(argument, "close") || !strcmp(argument, "refuse")))
		return argument;
	slurm_error("--checkpoint-tcp=%s: it is close or refuse", argument ? argument : "");
	return NULL;
}

/* Skip `mark` and the digits after it, if both are there. */
static const char *past(const char *text, char mark)
{
	const size_t digits = *text == mark ? strspn(text + 1, "0123456789") : 0;

	return digits ? text + 1 + digits : text;
}

/* A job is named by digits, or by 12_3 if it is an array's, perhaps with a colon and more digits. */
static bool is_job(const char *text)
{
	const size_t digits = strspn(text, "0123456789");

	return digits && !*past(past(text + digits, '_'), ':');
}

static const char *accept_source(const char *argument)
{
	if (!argument || !*argument)
		slurm_error("--restart-dir: no directory and no job given");
	else if (argument[strspn(argument, "0123456789_")] == ':' && !is_job(argument))
		slurm_error("--restart-dir=%s: neither a job (12, 12_3), a checkpoint of one (12:3), nor a directory",
			    argument);
	else
		return argument;
	return NULL;
}

static const char *accept_path(const char *argument)
{
	if (!argument || !*argument) {
		slurm_error("--checkpoint-dir: no directory given");
		return NULL;
	}
	return argument;
}

/* oci.conf can't take a line break in a variable. */
static const char *accept_command(const char *argument)
{
	if (!argument || !*argument)
		slurm_error("--checkpoint-hook: no command given");
	else if (strpbrk(argument, "\r\n"))
		slurm_error("--checkpoint-hook: a command has one line; put more into a script");
	else
		return argument;
	return NULL;
}

static bool is_relative(const char *value)
{
	return *value != '/' && !is_job(value);
}

static char *absolute_path(const char *path)
{
	CLEANUP_TEXT char *directory = NULL;
	char *absolute = NULL;

	if (!is_relative(path))
		return strdup(path);
	if (!(directory = getcwd(NULL, 0)) || asprintf(&absolute, "%s/%s", directory, path) < 0)
		return NULL;
	return absolute;
}

/*
 * Slurm forwards an option of srun as it was typed. Only srun knows what a relative path is relative to, so the
 * absolute path is taken out of the step's environment before Slurm clears that; see options_register().
 */
static char *forwarded_path(int row, const char *path)
{
	if (!is_relative(path))
		return strdup(path);
	return values[row] ? strdup(values[row]) : NULL;
}

static int take(int row, const char *argument, int remote)
{
	const char *value = TABLE[row].accept(argument);
	char *kept;

	if (!value)
		return -1;
	if (!TABLE[row].is_path)
		kept = strdup(value);
	else
		kept = remote ? forwarded_path(row, value) : absolute_path(value);
	if (!kept) {
		slurm_error("--%s=%s: can't be made absolute", TABLE[row].option.name, value);
		return -1;
	}
	set_value(row, kept);
	made_absolute[row] = TABLE[row].is_path && is_relative(value);
	return 0;
}

static void read_forwarded(spank_t sp, int row)
{
	char path[PATH_MAX];

	if (spank_getenv(sp, TABLE[row].forward, path, sizeof(path)) == ESPANK_SUCCESS && !is_relative(path))
		set_value(row, strdup(path));
}

int options_register(spank_t sp)
{
	/* For a line that stands in plugstack.conf twice, Slurm calls every hook twice. */
	if (registered)
		return 0;
	registered = true;
	for (int row = 0; row < OPTION_COUNT; row++) {
		struct spank_option option = TABLE[row].option;
		spank_err_t rc = spank_option_register(sp, &option);

		if (rc != ESPANK_SUCCESS) {
			slurm_error("oci-criu-shim: --%s: %s", option.name, spank_strerror(rc));
			return -1;
		}
		if (TABLE[row].is_path && spank_remote(sp) == 1)
			read_forwarded(sp, row);
	}
	return 0;
}

/* Slurm has just put the option there as it was typed; sbatch, salloc and srun build the job's environment next. */
static int forward(spank_t sp, int row)
{
	if (setenv(TABLE[row].forward, values[row], 1) < 0)
		return -1;
	return spank_job_control_setenv(sp, TABLE[row].forward, values[row], 1) == ESPANK_SUCCESS ? 0 : -1;
}

/* Slurm may ask more than once, and for a line that stands in plugstack.conf twice does so twice. */
static void advise(void)
{
	static bool advised;
	const char *directory = values[CHECKPOINT_DIR], *source = values[RESTART_DIR];

	if (advised || !options_step_asked())
		return;
	advised = true;
	if (directory)
		advice_on_directory(directory, made_absolute[CHECKPOINT_DIR]);
	if (source)
		advice_on_source(source, is_job(source), directory);
}

int options_submit(spank_t sp)
{
	for (int row = 0; row < OPTION_COUNT; row++) {
		if (!values[row])
			continue;
		if (!values[CHECKPOINT]) {
			slurm_error("--%s has no effect without --checkpoint; give both", TABLE[row].option.name);
			return -1;
		}
		if (TABLE[row].is_path && forward(sp, row) < 0) {
			slurm_error("--%s: can't be passed on to the job", TABLE[row].option.name);
			return -1;
		}
	}
	advise();
	return 0;
}

static spank_err_t apply(spank_t sp, int row, const char *value)
{
	/* Slurm 24.11 leaves some of these in, since it removes them from the environment while it goes through it. */
	spank_err_t rc = spank_unsetenv(sp, TABLE[row].forward);

	if (rc != ESPANK_SUCCESS)
		return rc;
	return value ? spank_setenv(sp, TABLE[row].variable, value, 1) : spank_unsetenv(sp, TABLE[row].variable);
}

int options_apply(spank_t sp)
{
	const bool asked = options_step_asked();

	for (int row = 0; row < OPTION_COUNT; row++) {
		spank_err_t rc = apply(sp, row, asked ? values[row] : NULL);

		if (rc != ESPANK_SUCCESS) {
			slurm_error("oci-criu-shim: %s: %s", TABLE[row].variable, spank_strerror(rc));
			return -1;
		}
	}
	return 0;
}

static bool is_asking(const char *when)
{
	return when && strcmp(when, "off") != 0;
}

bool options_step_asked(void)
{
	return is_asking(values[CHECKPOINT]);
}

bool options_job_asked(spank_t sp)
{
	struct spank_option option = TABLE[CHECKPOINT].option;
	char *argument = NULL;

	if (spank_option_getopt(sp, &option, &argument) != ESPANK_SUCCESS)
		return false;
	return is_asking(accept_when(argument));
}

void options_forget(void)
{
	registered = false;
	for (int row = 0; row < OPTION_COUNT; row++)
		set_value(row, NULL);
}
