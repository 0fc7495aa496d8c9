/*
 * Loaded into a user's CRIU before its libraries.
 *
 * CRIU has the user's uid; only capabilities that the user lacks keep the user from tracing it. In a user namespace of
 * their own, users lack none: they could trace a process of CRIU's that enters one, and that process may share CRIU's
 * memory. So before a process enters one, it tells the kernel that it is not dumpable (PR_SET_DUMPABLE of prctl(2)):
 * tracing it then takes a capability in the namespace in which CRIU was executed. (The user can still trace what CRIU
 * executes in there, tar: it has nothing of CRIU's but standard streams, and no right outside.)
 *
 * CRIU makes images in directories of the user, who can put links or mounts there. It follows none: if CRIU opened
 * something else with its rights, the user could write to that by way of tar's standard output, and that may be a
 * process's memory.
 *
 * CRIU is confined from the first process that it dumps on. That can't be earlier: the kernel does not let a confined
 * process read or suspend the seccomp filters of others.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "criu_ids.h"
#include "util.h"

/* The environment variable with the number of the descriptor shared with the worker (privileged/guard.py). */
#define MARK "OCI_CRIU_SHIM_LOADED"

/* The name of CRIU's image of the paths of what processes watch. */
#define CACHE "irmap-cache"

static volatile struct {
	uint64_t loaded;     /* for the worker: this library is there */
	uint64_t has_parent; /* from the worker: the dump is an increment, and a worker made its parent */
	struct {
		uint64_t device, inode;
	} images, work;	     /* from the worker: the images' directory, and the one to work in */
	uint64_t found;	     /* from the worker: bytes of the next one */
	char cache[1 << 20]; /* from the worker: CRIU's image of the paths of what processes watch */
} *shared;

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#elif defined(__powerpc64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ARCHITECTURE AUDIT_ARCH_PPC64LE
#else
#error "seccomp's name of this architecture is not known here"
#endif

#define FIRST_OF_X32 0x40000000

#ifndef SYS_open_tree_attr /* Linux 6.15; the same number on all architectures */
#define SYS_open_tree_attr 467
#endif

/*
 * System calls that CAP_SYS_ADMIN opens and no dump needs, and some that have no business in a dump. The kernel refuses
 * those that take other capabilities (setgid(2), kexec_load(2), …), since the worker does not have them even in its
 * bounding set.
 */
static const uint32_t DENIED[] = {
	SYS_acct,
	SYS_add_key,
	SYS_bpf,
	SYS_chroot,
	SYS_delete_module,
	SYS_fanotify_init,
	SYS_finit_module,
	SYS_fsconfig,
	SYS_fsmount,
	SYS_fsopen,
	SYS_fspick,
	SYS_init_module,
	SYS_io_uring_enter,
	SYS_io_uring_register,
	SYS_io_uring_setup,
	SYS_kexec_file_load,
	SYS_kexec_load,
	SYS_keyctl,
	SYS_mount_setattr,
	SYS_move_mount,
	SYS_open_tree,
	SYS_open_tree_attr,
	SYS_perf_event_open,
	SYS_pivot_root,
	SYS_quotactl,
	SYS_quotactl_fd,
	SYS_request_key,
	SYS_setdomainname,
	SYS_sethostname,
	SYS_swapoff,
	SYS_swapon,
	SYS_syslog,
	SYS_userfaultfd,
};

/* For typing into somebody else's terminal, and for holding up a file system. */
static const uint32_t DENIED_IOCTLS[] = { TIOCSTI, TIOCLINUX, FIFREEZE, FITHAW, FITRIM };

enum { PROGRAM_SIZE = 96 };

struct program {
	struct sock_filter code[PROGRAM_SIZE];
	unsigned short length;
};

static void add(struct program *program, struct sock_filter instruction)
{
	program->code[program->length++] = instruction;
}

static void load(struct program *program, size_t offset)
{
	add(program, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

/* Load the low half of an argument. */
static void load_argument(struct program *program, int number)
{
	const size_t low = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0 : sizeof(uint32_t);

	load(program, offsetof(struct seccomp_data, args) + (size_t)number * sizeof(uint64_t) + low);
}

static void answer(struct program *program, uint32_t action)
{
	add(program, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
}

static void deny(struct program *program)
{
	answer(program, SECCOMP_RET_ERRNO | EPERM);
}

/* Skip so many instructions unless `test` (BPF_JEQ, BPF_JGE, BPF_JSET) holds. */
static void unless(struct program *program, int test, uint32_t value, unsigned char skipped)
{
	add(program, (struct sock_filter)BPF_JUMP((unsigned short)(BPF_JMP | BPF_K | test), value, 0, skipped));
}

static void skip(struct program *program, uint32_t skipped)
{
	add(program, (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, skipped));
}

static void add_mount(struct program *program)
{
	unless(program, BPF_JEQ, SYS_mount, 6);
	load_argument(program, 3);
	unless(program, BPF_JSET, MS_REMOUNT, 1);
	deny(program);
	unless(program, BPF_JSET, MS_BIND | MS_PRIVATE | MS_SLAVE, 1); /* the last two: how mounts propagate */
	answer(program, SECCOMP_RET_ALLOW);
	deny(program);
}

static void add_ioctls(struct program *program)
{
	unless(program, BPF_JEQ, SYS_ioctl, 1 + 2 * COUNT(DENIED_IOCTLS));
	load_argument(program, 1);
	for (size_t i = 0; i < COUNT(DENIED_IOCTLS); i++) {
		unless(program, BPF_JEQ, DENIED_IOCTLS[i], 1);
		deny(program);
	}
}

static struct program filter(void)
{
	struct program program = { .length = 0 };

	load(&program, offsetof(struct seccomp_data, arch));
	unless(&program, BPF_JEQ, ARCHITECTURE, 1);
	skip(&program, 1);
	deny(&program);
	load(&program, offsetof(struct seccomp_data, nr));
	if (ARCHITECTURE == AUDIT_ARCH_X86_64) {
		unless(&program, BPF_JGE, FIRST_OF_X32, 1);
		deny(&program);
	}
	for (size_t i = 0; i < COUNT(DENIED); i++) {
		unless(&program, BPF_JEQ, DENIED[i], 1);
		deny(&program);
	}
	/* These come last: what they load is no system call's number any more. */
	add_mount(&program);
	add_ioctls(&program);
	answer(&program, SECCOMP_RET_ALLOW);
	return program;
}

/*
 * Have the kernel refuse this process, and all that it starts, the system calls that no dump needs. -1 and errno on
 * failure.
 */
EXPORTED int confine(void);

int confine(void)
{
	struct program program = filter();
	const struct sock_fprog found = { .len = program.length, .filter = program.code };

	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &found);
}

/* Once CRIU makes a process's first image, it has read all filters (cr_dump_tasks() in criu/cr-dump.c, 4.2). */
static void confine_once(const char *path)
{
	static bool confined;

	if (confined || strncmp(path, "core-", 5))
		return;
	if (confine() < 0)
		_exit(EXIT_FAILURE);
	confined = true;
}

/*
 * Whatever the request, CRIU reads the images in `parent` below the images' directory, and `irmap-cache` in the
 * directory to work in, if they exist (open_parent() in criu/image.c, irmap_load_cache() in criu/irmap.c, 4.2). Both
 * are the user's.
 */
static bool is_hidden(int directory, const char *path)
{
	const bool parent = !strcmp(path, "parent");
	struct stat64 status;

	/* fstat64() takes no AT_FDCWD, by which CRIU opens irmap-cache. */
	if (!shared || !(parent ? !shared->has_parent : !strcmp(path, CACHE)) ||
	    syscall(SYS_newfstatat, directory, "", &status, AT_EMPTY_PATH) < 0)
		return false;
	if ((status.st_dev != shared->images.device || status.st_ino != shared->images.inode) &&
	    (status.st_dev != shared->work.device || status.st_ino != shared->work.inode))
		return false;
	errno = ENOENT;
	return true;
}

/*
 * Open what the worker has found, in the place of the user's irmap-cache. -1 and errno if that is no image at all: CRIU
 * must not find none, or it would look for one in the parent (open_irmap_cache() in criu/irmap.c, 4.2).
 */
static int open_cache(void)
{
	const size_t size = shared->found;
	int fd;

	if (!size || size > sizeof(shared->cache)) {
		errno = EPERM;
		return -1;
	}
	fd = memfd_create(CACHE, MFD_CLOEXEC);
	if (fd < 0)
		return -1;
	if (write(fd, (const char *)shared->cache, size) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0)
		return fd;
	close(fd);
	errno = EIO;
	return -1;
}

EXPORTED int fstatat64(int directory, const char *restrict path, struct stat64 *restrict status, int flags)
{
	return is_hidden(directory, path) ? -1 : (int)syscall(SYS_newfstatat, directory, path, status, flags);
}

static int hide(void)
{
	return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

/* Make or rewrite a file in a directory of the user: there, and nowhere that a link or a mount leads to. */
static int make(int directory, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)flags,
		.mode = mode & 07777,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
	};

	if (hide() < 0)
		return -1;
	confine_once(path);
	return (int)syscall(SYS_openat2, directory, path, &how, sizeof(how));
}

/*
 * CRIU opens /proc/PID/clear_refs for reading, too, though it only writes there, to have the kernel track which memory
 * a process writes (do_task_reset_dirty_track() in criu/mem.c, 4.2). The file's owner may write it and nobody may read
 * it, so without a DAC override that fails.
 *
 * It opens each file anew for its build ID, too, which the container's root may do, and the user may not if the file is
 * closed to all, as a program of mode 0111 is. A descriptor that can't be read from has it do without, as with a file
 * that has none (get_build_id() in criu/files-reg.c); where it needs the contents, it fails as before.
 */
static int open_there(int directory, const char *path, int flags)
{
	int fd;

	if (is_hidden(directory, path))
		return strcmp(path, CACHE) ? -1 : open_cache();
	if ((flags & O_ACCMODE) == O_RDWR && !strcmp(path, "clear_refs"))
		flags = (flags & ~O_ACCMODE) | O_WRONLY;
	fd = (int)syscall(SYS_openat, directory, path, flags);
	if (fd < 0 && errno == EACCES && (flags & O_ACCMODE) == O_RDONLY && !strncmp(path, "fd/", 3))
		fd = (int)syscall(SYS_openat, directory, path, O_PATH);
	return show_ids(path, fd);
}

static bool makes(int flags)
{
	return flags & O_CREAT || (flags & __O_TMPFILE) == __O_TMPFILE;
}

EXPORTED int openat64(int directory, const char *path, int flags, ...)
{
	if (makes(flags)) {
		va_list more;
		mode_t mode;

		va_start(more, flags);
		mode = va_arg(more, mode_t);
		va_end(more);
		return make(directory, path, flags, mode);
	}
	return open_there(directory, path, flags);
}

/* It is called by a CRIU that was built with _FORTIFY_SOURCE, where flags are no constants and there is no mode. */
EXPORTED int __openat64_2(int directory, const char *path, int flags);

int __openat64_2(int directory, const char *path, int flags)
{
	return makes(flags) ? make(directory, path, flags, 0) : open_there(directory, path, flags);
}

EXPORTED int setns(int fd, int kind)
{
	return hide() < 0 ? -1 : (int)syscall(SYS_setns, fd, kind);
}

/* A user namespace that CRIU makes is the user's, too: they have one uid. */
EXPORTED int unshare(int flags)
{
	if (flags & CLONE_NEWUSER && hide() < 0)
		return -1;
	return (int)syscall(SYS_unshare, flags);
}

/*
 * CRIU drops its supplementary groups in a short-lived process that checks if a container's namespaces belong together
 * (check_user_ns() in criu/namespaces.c, 4.2). Dropping them would take CAP_SETGID, with which a process can also join
 * any group.
 */
EXPORTED int setgroups(size_t count, const gid_t *groups)
{
	return count ? (int)syscall(SYS_setgroups, count, groups) : 0;
}

/* Do nothing in the worker, which only calls confine(). */
static __attribute__((constructor)) void begin(void)
{
	const char *mark = getenv(MARK);

	if (!mark)
		return;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(mark), 0);
	if (shared == MAP_FAILED || close(atoi(mark)) < 0 || unsetenv(MARK) < 0)
		_exit(EXIT_FAILURE);
	/* Nobody else ends a CRIU that waits for ever. One whose worker has ended before this finds its request missing. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		_exit(EXIT_FAILURE);
	shared->loaded = 1;
}
