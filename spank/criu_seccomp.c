/*
 * Loaded into a CRIU that restores without privilege: it sets the seccomp filters of threads, and strict mode, last.
 *
 * CRIU sets them before a thread's credentials, and then has the thread do a dozen of other system calls
 * (__export_restore_thread() in criu/pie/restorer.c, 4.2). A filter that refuses one of these ends the thread. Root
 * suspends seccomp meanwhile (PTRACE_O_SUSPEND_SECCOMP), which takes CAP_SYS_ADMIN in the node's user namespace.
 *
 * So the images that CRIU reads have none (restore/seccomp.py), and what is to be set is in memory shared with the shim.
 * When CRIU lets go of the first thread (finalize_restore_detach() in criu/cr-restore.c), all of them are stopped at
 * their programs' next instruction. Each is made to call seccomp(2) or prctl(2) then, by the instruction for system
 * calls in its vdso, with the filter in a piece of its memory that is put back. If that fails, CRIU can't let go, and
 * ends them all.
 *
 * All of it is for x86-64: registers have other names elsewhere.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/param.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "ptrace.h"
#include "util.h"

/* The environment variable with the number of the descriptor shared with the shim. */
#define SHARED "OCI_CRIU_SHIM_SECCOMP"

enum {
	STOPPED_BY_CALL = SIGTRAP | 0x80,
	LARGEST = sizeof(struct sock_fprog) + BPF_MAXINSNS * sizeof(struct sock_filter)
};

enum { CS_OF_32_BITS = 0x23 }; /* USER32_CS in CRIU */

struct filter {
	uint32_t flags;
	uint32_t length; /* instructions, which follow */
	struct sock_filter code[];
};

struct thread {
	uint32_t number; /* in the container's pid namespace */
	uint32_t mode;
	uint32_t filters; /* which follow, the oldest first */
};

static volatile struct {
	uint32_t loaded;  /* for the shim: this library is there */
	uint32_t set;	  /* for the shim: how many threads are done */
	uint32_t threads; /* which follow */
} *shared;

#if defined(__x86_64__)

/* What CRIU traces. */
static struct {
	pid_t *threads;
	size_t count;
} traced;

static int fail(pid_t thread, const char *what)
{
	const int error = errno;

	dprintf(STDERR_FILENO, "Error (criu_seccomp.c:1): seccomp of thread %d can't be set: %s: %s\n", thread, what,
		strerror(error));
	errno = error;
	return -1;
}

/* A thread's number in its own pid namespace, if that is one below ours; else 0. */
static pid_t number_inside(pid_t thread)
{
	CLEANUP_FILE FILE *file = NULL;
	char path[32], line[256];
	int outer, inner, more;

	snprintf(path, sizeof(path), "/proc/%d/status", thread);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		const char *last = strrchr(line, '\t');

		/* The first is the number in the namespace of this /proc, which may be above ours. */
		if (sscanf(line, "NSpid: %d %d %d", &outer, &inner, &more) >= 2 && last)
			return atoi(last);
	}
	return 0;
}

/* Have a thread go on to its next stop at a system call; signals that come meanwhile have to wait. */
static int advance(pid_t thread, int *held)
{
	int status;

	do {
		if (next_ptrace(PTRACE_SYSCALL, thread, NULL, NULL) < 0 || waitpid(thread, &status, __WALL) < 0)
			return -1;
		if (!WIFSTOPPED(status)) {
			errno = ESRCH;
			return -1;
		}
		if (WSTOPSIG(status) != STOPPED_BY_CALL && !(status >> 16))
			*held = WSTOPSIG(status);
	} while (WSTOPSIG(status) != STOPPED_BY_CALL);
	return 0;
}

struct call {
	pid_t thread;
	struct user_regs_struct registers; /* as they are to be in the end */
	uint64_t instruction;
	int held;
};

static long do_call(struct call *call, long number, uint64_t first, uint64_t second, uint64_t third)
{
	struct user_regs_struct registers = call->registers;

	registers.rip = call->instruction;
	registers.rax = (uint64_t)number;
	registers.orig_rax = UINT64_MAX;
	registers.rdi = first;
	registers.rsi = second;
	registers.rdx = third;
	registers.r10 = registers.r8 = registers.r9 = 0;
	if (next_ptrace(PTRACE_SETREGS, call->thread, NULL, &registers) < 0 || advance(call->thread, &call->held) < 0 ||
	    advance(call->thread, &call->held) < 0 || next_ptrace(PTRACE_GETREGS, call->thread, NULL, &registers) < 0)
		return -errno;
	return (long)registers.rax;
}

static ssize_t copy(pid_t thread, bool write, uint64_t address, void *data, size_t size)
{
	const struct iovec here = { data, size }, there = { (void *)address, size };

	return (write ? process_vm_writev : process_vm_readv)(thread, &here, 1, &there, 1, 0);
}

/* Find a system call's instruction. */
static uint64_t find_instruction(pid_t thread, uint64_t begin, uint64_t end)
{
	static unsigned char code[1 << 16];
	const ssize_t size = copy(thread, false, begin, code, MIN(end - begin, sizeof(code)));
	const unsigned char *found = size > 0 ? memmem(code, (size_t)size, "\x0f\x05", 2) : NULL;

	return found ? begin + (uint64_t)(found - code) : 0;
}

/* Find a place in the memory for `size` bytes, and read what is there. */
static uint64_t find_place(pid_t thread, uint64_t begin, uint64_t end, const char *access, void *old, size_t size)
{
	const bool fits = !strcmp(access, "rw-p") && end - begin >= size;

	if (!fits || copy(thread, false, begin, old, size) != (ssize_t)size ||
	    copy(thread, true, begin, old, size) != (ssize_t)size)
		return 0;
	return begin;
}

static int find(struct call *call, uint64_t *place, void *old, size_t size)
{
	CLEANUP_FILE FILE *file = NULL;
	char path[32], line[4352], access[5];
	uint64_t begin, end;

	snprintf(path, sizeof(path), "/proc/%d/maps", call->thread);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &begin, &end, access) != 3)
			continue;
		if (strstr(line, "[vdso]"))
			call->instruction = find_instruction(call->thread, begin, end);
		else if (size && !*place)
			*place = find_place(call->thread, begin, end, access, old, size);
	}
	errno = ENOMEM;
	return call->instruction && (*place || !size) ? 0 : -1;
}

static int set_filter(struct call *call, const struct filter *filter)
{
	static unsigned char old[LARGEST], new[LARGEST];
	const size_t code = filter->length * sizeof(struct sock_filter), size = sizeof(struct sock_fprog) + code;
	struct sock_fprog program = { .len = (unsigned short)filter->length };
	uint64_t place = 0;
	long result;

	if (filter->length > BPF_MAXINSNS || find(call, &place, old, size) < 0)
		return -1;
	program.filter = (struct sock_filter *)(place + sizeof(program));
	memcpy(new, &program, sizeof(program));
	memcpy(new + sizeof(program), filter->code, code);
	if (copy(call->thread, true, place, new, size) != (ssize_t)size)
		return -1;
	result = do_call(call, SYS_seccomp, SECCOMP_SET_MODE_FILTER, filter->flags, place);
	if (result && !filter->flags) /* the filters before it may allow only the older call */
		result = do_call(call, SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, place);
	if (copy(call->thread, true, place, old, size) != (ssize_t)size)
		return -1;
	errno = result < 0 ? (int)-result : EBUSY; /* the number of a thread whose filters are others */
	return result ? -1 : 0;
}

static int set_strict(struct call *call)
{
	uint64_t place = 0;
	long result;

	if (find(call, &place, NULL, 0) < 0)
		return -1;
	result = do_call(call, SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0);
	errno = (int)-result;
	return result ? -1 : 0;
}

static int set_all(struct call *call, const struct thread *wanted)
{
	const struct filter *filter = (const struct filter *)(wanted + 1);

	if (wanted->mode == SECCOMP_MODE_STRICT)
		return set_strict(call);
	for (uint32_t i = 0; i < wanted->filters; i++) {
		if (set_filter(call, filter) < 0)
			return -1;
		filter = (const struct filter *)(filter->code + filter->length);
	}
	return 0;
}

static int set(pid_t thread, const struct thread *wanted)
{
	struct call call = { .thread = thread };
	uint64_t blocked, all = UINT64_MAX;
	void *size = (void *)sizeof(all);

	if (next_ptrace(PTRACE_GETREGS, thread, NULL, &call.registers) < 0 ||
	    next_ptrace(PTRACE_GETSIGMASK, thread, size, &blocked) < 0 ||
	    next_ptrace(PTRACE_SETSIGMASK, thread, size, &all) < 0)
		return fail(thread, "it can't be traced");
	if (call.registers.cs == CS_OF_32_BITS) {
		errno = ENOTSUP;
		return fail(thread, "it is a 32-bit program's");
	}
	if (set_all(&call, wanted) < 0)
		return fail(thread, wanted->mode == SECCOMP_MODE_STRICT ? "strict mode" : "a filter");
	if (next_ptrace(PTRACE_SETREGS, thread, NULL, &call.registers) < 0 ||
	    next_ptrace(PTRACE_SETSIGMASK, thread, size, &blocked) < 0)
		return fail(thread, "it can't be put back");
	if (call.held && syscall(SYS_tkill, thread, call.held) < 0)
		return fail(thread, "a signal is lost");
	shared->set++;
	return 0;
}

static const struct thread *after(const struct thread *thread)
{
	const struct filter *filter = (const struct filter *)(thread + 1);

	for (uint32_t i = 0; i < thread->filters; i++)
		filter = (const struct filter *)(filter->code + filter->length);
	return (const struct thread *)filter;
}

/* Set what is wanted of the traced threads. There is none until the container's are. */
static int set_each(void)
{
	for (size_t i = 0; i < traced.count; i++) {
		const struct thread *wanted = (const struct thread *)(shared + 1);
		const pid_t number = number_inside(traced.threads[i]);

		for (uint32_t left = number ? shared->threads : 0; left; left--, wanted = after(wanted))
			if (wanted->number == (uint32_t)number && set(traced.threads[i], wanted) < 0)
				return -1;
	}
	return 0;
}

static int note(pid_t thread)
{
	pid_t *larger = reallocarray(traced.threads, traced.count + 1, sizeof(*larger));

	if (!larger)
		return -1;
	traced.threads = larger;
	traced.threads[traced.count++] = thread;
	return 0;
}

static void forget(pid_t thread)
{
	for (size_t i = 0; i < traced.count; i++)
		if (traced.threads[i] == thread)
			traced.threads[i--] = traced.threads[--traced.count];
}

long replaced(enum __ptrace_request request, pid_t thread, void *address, void *data)
{
	long result;

	if (request == PTRACE_DETACH && shared) {
		if (!shared->set && set_each() < 0)
			return -1;
		forget(thread);
	}
	result = next_ptrace(request, thread, address, data);
	return !result && request == PTRACE_SEIZE && shared ? note(thread) : result;
}

#endif

/* The programs that CRIU runs need none of this. */
static __attribute__((constructor)) void begin(void)
{
	const char *number = getenv(SHARED);
	struct stat status;

	if (!number)
		return;
	if (fstat(atoi(number), &status) < 0)
		_exit(EXIT_FAILURE);
	shared = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(number), 0);
	if (shared == MAP_FAILED || close(atoi(number)) < 0 || unsetenv(SHARED) < 0 || unsetenv("LD_PRELOAD") < 0)
		_exit(EXIT_FAILURE);
	shared->loaded = 1;
}
