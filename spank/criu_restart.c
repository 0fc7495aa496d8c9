/*
 * Loaded into CRIU, a user's (as a part of criu_preload.so) and root's (by itself): system calls that a dump interrupts
 * begin again.
 *
 * When a process that was stopped in a system call goes on, the kernel restarts the call, unless a signal's handler is
 * to run first. But CRIU reads the process's registers, and sets them anew. It restarts a call itself in most cases, but
 * turns -ERESTART_RESTARTBLOCK, which nanosleep(2), poll(2) and others return, into EINTR (compel_get_task_regs() in
 * compel/arch/x86/src/lib/infect.c, 4.2). Programs without a handler don't expect that. Some calls end with EINTR by
 * themselves once a process is stopped ("Interruption of system calls … by stop signals" in signal(7)).
 *
 * So when CRIU reads registers, it finds -ERESTARTNOHAND instead, and restarts the call, with all of its time limit; a
 * sleep whose caller asks for the rest, with that rest. A restore needs nothing of this: CRIU writes such registers into
 * the images as they are to be restored.
 *
 * All of it is for x86-64: registers have other names elsewhere. The arm64 kernel restarts such a call before CRIU sees
 * it (do_signal() in arch/arm64/kernel/signal.c), except those that end with EINTR by themselves.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <inttypes.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>

#include "ptrace.h"
#include "util.h"

#if defined(__x86_64__)

enum { RESTART_NO_HANDLER = 514, RESTART_BLOCK = 516 }; /* include/linux/errno.h: nobody but tracers sees them */

/* Registers of a 32-bit process are 17 words, and these are two of them. */
enum { WORDS = 17, AX = 6, ORIG_AX = 11 };

/*
 * Calls that may end with EINTR only because the process was stopped, and that have done nothing by then: they can be
 * made again. Those of sockets do so if the socket has a time limit (SO_RCVTIMEO, SO_SNDTIMEO).
 */
static const long STOPPED[] = {
	SYS_epoll_wait,	  SYS_epoll_pwait, SYS_epoll_pwait2, SYS_semop,	  SYS_semtimedop, SYS_rt_sigtimedwait,
	SYS_io_getevents, SYS_accept,	   SYS_accept4,	     SYS_connect, SYS_read,	  SYS_readv,
	SYS_recvfrom,	  SYS_recvmsg,	   SYS_recvmmsg,     SYS_write,	  SYS_writev,	  SYS_sendto,
	SYS_sendmsg,	  SYS_sendmmsg,
};

/* Whether a call has ended, or is to be restarted, because the process was stopped. */
static bool is_interrupted(long call, long result)
{
	if (call < 0 || result != -EINTR)
		return call >= 0 && (result == -RESTART_BLOCK || result == -RESTART_NO_HANDLER);
	for (size_t i = 0; i < COUNT(STOPPED); i++)
		if (STOPPED[i] == call)
			return true;
	return false;
}

/* Whether a signal waits that the thread has a handler for. */
static bool has_signal(pid_t thread)
{
	CLEANUP_FILE FILE *file = NULL;
	char path[32], line[256];
	uint64_t waiting = 0, blocked = 0, caught = 0, set;

	snprintf(path, sizeof(path), "/proc/%d/status", thread);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "SigPnd: %" SCNx64, &set) == 1 || sscanf(line, "ShdPnd: %" SCNx64, &set) == 1)
			waiting |= set;
		else if (sscanf(line, "SigBlk: %" SCNx64, &set) == 1)
			blocked = set;
		else if (sscanf(line, "SigCgt: %" SCNx64, &set) == 1)
			caught = set;
	}
	return waiting & caught & ~blocked;
}

/* The result that CRIU is to find: that of a call which is restarted if no handler is to run. */
static long result_of(pid_t thread, long call, long result)
{
	if (!is_interrupted(call, result))
		return result;
	return has_signal(thread) ? -EINTR : -RESTART_NO_HANDLER;
}

/*
 * Set the result. A program that asks how much is left of its sleep has been told so by the kernel already: that is how
 * long the sleep takes when it begins again, or a script that is checkpointed more often would never get past `sleep`.
 */
static void set_result(struct user_regs_struct *registers, long result)
{
	const bool is_sleep = (long)registers->rax == -RESTART_BLOCK && result == -RESTART_NO_HANDLER;

	if (is_sleep && registers->orig_rax == SYS_nanosleep && registers->rsi)
		registers->rdi = registers->rsi;
	else if (is_sleep && registers->orig_rax == SYS_clock_nanosleep && registers->r10)
		registers->rdx = registers->r10;
	registers->rax = (unsigned long long)result;
}

static void change(pid_t thread, const struct iovec *found)
{
	if (found->iov_len == sizeof(struct user_regs_struct)) {
		struct user_regs_struct *registers = found->iov_base;

		set_result(registers, result_of(thread, (long)registers->orig_rax, (long)registers->rax));
	} else if (found->iov_len == WORDS * sizeof(int32_t)) {
		int32_t *words = found->iov_base;

		if (words[AX] != -EINTR) /* its calls have other numbers */
			words[AX] = (int32_t)result_of(thread, words[ORIG_AX], words[AX]);
	}
}

/*
 * A dump that fails lets go of processes whose registers it never read. The kernel then decides what is restarted. It
 * would go on with what is left of a time limit, but by a call that a later dump can't restart (restart_syscall(2)).
 */
static void let_go(pid_t thread)
{
	struct user_regs_struct registers;
	struct iovec all = { &registers, sizeof(registers) };

	if (next_ptrace(PTRACE_GETREGSET, thread, (void *)NT_PRSTATUS, &all) < 0 || all.iov_len != sizeof(registers))
		return;
	if (!is_interrupted((long)registers.orig_rax, (long)registers.rax))
		return;
	set_result(&registers, -RESTART_NO_HANDLER);
	next_ptrace(PTRACE_SETREGSET, thread, (void *)NT_PRSTATUS, &all);
}

long replaced(enum __ptrace_request request, pid_t thread, void *address, void *data)
{
	long result;

	if (request == PTRACE_DETACH)
		let_go(thread);
	result = next_ptrace(request, thread, address, data);
	if (result == 0 && request == PTRACE_GETREGSET && (uintptr_t)address == NT_PRSTATUS)
		change(thread, data);
	return result;
}

#endif

/* The programs that CRIU runs need none of this. */
static __attribute__((constructor)) void begin(void)
{
	unsetenv("LD_PRELOAD");
}
