#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "privileges.h"
#include "util.h"

/*
 * Capabilities that `criu dump --unprivileged`, with criu_preload.c in it, needs for a process of the same user; found
 * by leaving out one at a time.
 */
static const int DUMP_CAPABILITIES[] = {
	CAP_SYS_CHROOT, /* setns(2) into the container's mount namespace, to read its mounts and open files */
	CAP_SYS_ADMIN,	/* setns(2) at all; /proc/PID/map_files, pagemap and the namespaces' ids */
};

enum { NOBODY = 65534 };

/*
 * glibc's wrappers change all threads of a process, by way of signals and locks. In the child of a threaded process
 * only the bare system calls are safe.
 */
static int set_ids(uid_t uid, gid_t real_gid, gid_t gid)
{
	if (syscall(SYS_setresgid, real_gid, gid, gid) < 0)
		return -1;
	return (int)syscall(SYS_setresuid, uid, uid, uid);
}

static int become(uid_t uid, gid_t real_gid, gid_t gid)
{
	if (uid == 0) {
		errno = EPERM;
		return -1;
	}
	return syscall(SYS_setgroups, 0, NULL) < 0 ? -1 : set_ids(uid, real_gid, gid);
}

int become_user(uid_t uid, gid_t gid)
{
	return become(uid, gid, gid) < 0 ? -1 : prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/*
 * Tracing a process takes its user and all of its group ids (ptrace(2)), and the real ones last across execve(2).
 * no_new_privs is not set: with it, execve(2) in Linux 6.12, unlike 6.18, takes the effective group id for a gain, and
 * resets it.
 */
int become_untraced_user(uid_t uid, gid_t gid)
{
	return become(uid, gid == NOBODY ? NOBODY - 1 : NOBODY, gid);
}

static uint64_t dump_mask(void)
{
	uint64_t mask = 0;

	for (size_t i = 0; i < COUNT(DUMP_CAPABILITIES); i++)
		mask |= UINT64_C(1) << DUMP_CAPABILITIES[i];
	return mask;
}

/* Drop all else from the bounding set, which ends at the first number that the kernel doesn't know. */
static int bound(uint64_t mask)
{
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(mask >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return -1;
	return 0;
}

/* Make these the permitted, effective and inheritable capabilities. */
static int hold(uint64_t mask)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = {
		{ .effective = (uint32_t)mask, .permitted = (uint32_t)mask, .inheritable = (uint32_t)mask },
		{ .effective = mask >> 32, .permitted = mask >> 32, .inheritable = mask >> 32 },
	};

	return (int)syscall(SYS_capset, &header, data);
}

static int make_ambient(uint64_t mask)
{
	for (int cap = 0; cap < 64; cap++)
		if ((mask >> cap & 1) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
			return -1;
	return 0;
}

int become_dumper(uid_t uid, gid_t gid)
{
	/*
	 * KEEP_CAPS is for the change of uid below and ends with exec. It isn't locked, since criu sets it for itself.
	 */
	const unsigned long bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_KEEP_CAPS;
	const uint64_t mask = dump_mask();

	if (uid == 0) {
		errno = EPERM;
		return -1;
	}
	if (bound(mask) < 0 || prctl(PR_SET_SECUREBITS, bits, 0, 0, 0) < 0)
		return -1;
	if (set_ids(uid, gid, gid) < 0 || hold(mask) < 0 || make_ambient(mask) < 0)
		return -1;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}
