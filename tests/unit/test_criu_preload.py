"""What is loaded into a user's CRIU (spank/criu_preload.c)."""

from __future__ import annotations

import mmap
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SPANK = Path(__file__).resolve().parents[2] / "spank"
SOURCES = [str(SPANK / name) for name in ("criu_preload.c", "criu_ids.c", "criu_restart.c", "criu_queue.c")]
# In CRIU's place. `files DIRECTORY`: how it could open each file, and with which mode one was made. Any other words are
# done one after the other: `dumpable` says whether it is, `ends` the signal at its parent's end, `denied` which system
# calls are refused.
PROGRAM = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TRY(what) do { errno = 0; what; printf("%s", errno == EPERM ? " " #what : ""); } while (0)

static void denied(void)
{
	printf("denied");
	TRY(syscall(SYS_keyctl, -1));
	TRY(syscall(SYS_bpf, -1, 0, 0));
	TRY(syscall(SYS_perf_event_open, 0));
	TRY(syscall(SYS_io_uring_setup, 0, 0));
	TRY(syscall(SYS_fsopen, 0, -1));
	TRY(mount(0, 0, 0, 0, 0));
	TRY(mount(0, 0, 0, MS_REMOUNT, 0));
	TRY(mount(0, 0, 0, MS_BIND | MS_REMOUNT, 0));
	TRY(mount(0, 0, 0, MS_MOVE, 0));
	TRY(syscall(SYS_quotactl_fd, -1, 0, 0, 0));
	TRY(syscall(467, -1, 0, 0, 0, 0));
	TRY(ioctl(-1, TIOCSTI, ""));
	/* A dump does all these. */
	TRY(mount(0, 0, 0, MS_BIND | MS_REC, 0));
	TRY(mount(0, 0, 0, MS_PRIVATE | MS_REC, 0));
	TRY(ioctl(-1, TCGETS, 0));
	TRY(syscall(SYS_kcmp, -1, -1, 0, 0, 0));
	TRY(syscall(SYS_process_vm_readv, -1, 0, 0, 0, 0, 0));
	printf("\n");
}

int __openat64_2(int directory, const char *path, int flags);

static void files(const char *path)
{
	static const char *const names[] = {"clear_refs", "pagemap"};
	int directory = open(path, O_RDONLY);
	struct stat status;

	printf("directory %d\n", openat64(directory, "link", O_RDONLY | O_DIRECTORY) >= 0);
	for (int i = 0; i < 2; i++)
		printf("%s %d %d\n", names[i], fcntl(openat64(directory, names[i], O_RDWR), F_GETFL) & O_ACCMODE,
			fcntl(__openat64_2(directory, names[i], O_RDWR), F_GETFL) & O_ACCMODE);
	fstat(openat64(directory, "new", O_RDWR | O_CREAT, 0640), &status);
	printf("%o\n", status.st_mode & 0777);
}

static void parent(const char *path)
{
	int directory = open(path, O_RDONLY);
	struct stat64 status;
	bool found = fstatat64(directory, "parent", &status, AT_SYMLINK_NOFOLLOW) == 0;

	printf("parent %d %d\n", found, openat64(directory, "parent", O_RDONLY) >= 0);
}

static void cache(void)
{
	char text[8] = "";
	int fd = openat64(AT_FDCWD, "irmap-cache", O_RDONLY);

	printf("cache %s\n", fd < 0 ? strerror(errno) : read(fd, text, 7) < 0 ? "?" : text);
}

int main(int argc, char **argv)
{
	int sig;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "files"))
			files(argv[++i]);
		else if (!strcmp(argv[i], "dumpable"))
			printf("dumpable %d\n", prctl(PR_GET_DUMPABLE));
		else if (!strcmp(argv[i], "ends"))
			printf("ends %d\n", (prctl(PR_GET_PDEATHSIG, &sig), sig));
		else if (!strcmp(argv[i], "parent"))
			parent(argv[++i]);
		else if (!strcmp(argv[i], "cache"))
			cache();
		else if (!strcmp(argv[i], "setns"))
			setns(-1, CLONE_NEWUSER);
		else if (!strcmp(argv[i], "unshare"))
			unshare(CLONE_NEWUSER);
		else if (!strcmp(argv[i], "setgroups"))
			printf("setgroups %d\n", setgroups(0, NULL));
		else if (!strcmp(argv[i], "image"))
			openat64(AT_FDCWD, argv[++i], O_WRONLY | O_CREAT | O_TRUNC, 0600);
		else if (!strcmp(argv[i], "denied"))
			denied();
		else if (!strcmp(argv[i], "child"))
			execv("/proc/self/exe", argv + i);
		fflush(stdout);
	}
}
"""
REFUSED = (
    "denied syscall(SYS_keyctl, -1) syscall(SYS_bpf, -1, 0, 0) syscall(SYS_perf_event_open, 0) "
    "syscall(SYS_io_uring_setup, 0, 0) syscall(SYS_fsopen, 0, -1) mount(0, 0, 0, 0, 0) mount(0, 0, 0, MS_REMOUNT, 0) "
    "mount(0, 0, 0, MS_BIND | MS_REMOUNT, 0) mount(0, 0, 0, MS_MOVE, 0) syscall(SYS_quotactl_fd, -1, 0, 0, 0) "
    'syscall(467, -1, 0, 0, 0, 0) ioctl(-1, TIOCSTI, "")'
)


# In the worker's place: whether it is dumpable at first, once it is confined, and while CRIU opens its directories; and
# its mode of seccomp (proc_pid_status(5)).
WORKER = """
import ctypes, os, sys
from oci_criu_shim.host import linux
from oci_criu_shim.privileged import guard

def dumpable():
    return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)

linux.gain_no_privileges()
guard.LIBRARY, said = sys.argv[1], [dumpable()]
guard.confine()
said.append(dumpable())
guard.Guard().admit([os.open("/", os.O_RDONLY)], False)
said.append(dumpable())
print(*said, *(line for line in open("/proc/self/status") if line.startswith("Seccomp:")))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("library")
    (directory / "program.c").write_text(PROGRAM)
    strict = ["cc", "-O2", "-Wall", "-Werror"]
    subprocess.run([*strict, "-shared", "-fPIC", "-o", str(directory / "preload.so"), *SOURCES], check=True)
    subprocess.run([*strict, "-o", str(directory / "program"), str(directory / "program.c")], check=True)
    return directory


def run(built: Path, *words: str, mark: int | None = None, cwd: Path = Path("/")) -> list[str]:
    """What the program says; with the descriptor `mark` it is told to say that the library is there."""
    environment = {"LD_PRELOAD": str(built / "preload.so")}
    if mark is not None:
        environment["OCI_CRIU_SHIM_LOADED"] = str(mark)
    argv = [str(built / "program"), *words]
    given = () if mark is None else (mark,)
    done = subprocess.run(argv, env=environment, pass_fds=given, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture
def mark() -> Iterator[int]:
    descriptor = os.memfd_create("mark")
    os.ftruncate(descriptor, mmap.PAGESIZE)
    yield descriptor
    os.close(descriptor)


def test_only_that_file_is_not_read(built: Path, tmp_path: Path) -> None:
    for name in ("clear_refs", "pagemap"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(".")
    said = ["directory 1", f"clear_refs {os.O_WRONLY} {os.O_WRONLY}", f"pagemap {os.O_RDWR} {os.O_RDWR}", "640"]
    assert run(built, "files", str(tmp_path)) == said


def test_it_says_that_it_is_there(built: Path, mark: int) -> None:
    run(built, "dumpable", mark=mark)
    assert os.pread(mark, 8, 0) == struct.pack("=Q", 1)


def test_it_ends_with_its_worker(built: Path, mark: int) -> None:
    assert run(built, "ends", mark=mark) == [f"ends {signal.SIGKILL}"]


@pytest.mark.parametrize("has_parent", [0, 1])
def test_a_parent_is_seen_where_the_worker_says_so(built: Path, tmp_path: Path, mark: int, has_parent: int) -> None:
    """Below the images; a container may have files of that name."""
    for name in ("images/parent", "other/parent"):
        (tmp_path / name).mkdir(parents=True)
    status = (tmp_path / "images").stat()
    os.pwrite(mark, struct.pack("=5Q", has_parent, status.st_dev, status.st_ino, 0, 0), 8)
    said = run(built, "parent", str(tmp_path / "images"), "parent", str(tmp_path / "other"), mark=mark)
    assert said == ["parent 1 1" if has_parent else "parent 0 0", "parent 1 1"]


@pytest.mark.parametrize("found", [b"", b"found"])
def test_what_the_worker_has_found(built: Path, tmp_path: Path, mark: int, found: bytes) -> None:
    """It takes the place of what the user has put there; another directory may have such a file.

    Without any, CRIU must not go on: it would look for one in the parent, which is the user's, too.
    """
    (tmp_path / "work").mkdir()
    for place in (tmp_path, tmp_path / "work"):
        (place / "irmap-cache").write_text("user's")
    status = (tmp_path / "work").stat()
    os.ftruncate(mark, 2 << 20)
    os.pwrite(mark, struct.pack("=6Q", 0, 0, 0, status.st_dev, status.st_ino, len(found)) + found, 8)
    assert run(built, "cache", mark=mark, cwd=tmp_path) == ["cache user's"]
    said = found.decode() or "Operation not permitted"
    assert run(built, "cache", mark=mark, cwd=tmp_path / "work") == [f"cache {said}"]


@pytest.mark.parametrize("way", ["setns", "unshare"])
def test_not_dumpable_before_it_enters_a_namespace(built: Path, mark: int, way: str) -> None:
    assert run(built, "dumpable", way, "dumpable", mark=mark) == ["dumpable 1", "dumpable 0"]


def test_an_image_is_made_nowhere_else(built: Path, tmp_path: Path) -> None:
    """Than in its directory: not where a link or a mount leads to."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "core-1.img").symlink_to(precious)
    (tmp_path / "core-2.img").touch()
    for name in ("core-1.img", "../precious", "core-2.img", "core-3.img"):
        run(built, "image", name, cwd=tmp_path)
    assert precious.read_text() == "precious"
    assert (tmp_path / "core-3.img").exists()


def test_not_dumpable_before_it_makes_an_image(built: Path, tmp_path: Path, mark: int) -> None:
    assert run(built, "dumpable", "image", "core-1.img", "dumpable", mark=mark, cwd=tmp_path) == [
        "dumpable 1",
        "dumpable 0",
    ]


def test_groups_are_left_without_the_capability(built: Path) -> None:
    assert run(built, "setgroups") == ["setgroups 0"]


def test_confined_from_the_first_process_on(built: Path, mark: int, tmp_path: Path) -> None:
    words = ["image", "inventory.img", "denied", "image", "core-1.img", "denied", "child", "denied"]
    before, after, child = run(built, *words, mark=mark, cwd=tmp_path)
    assert "SYS_keyctl" not in before and "TIOCSTI" not in before
    assert after == child == REFUSED


def test_the_worker_is_confined_and_not_dumpable(built: Path) -> None:
    """But while CRIU opens its directories."""
    argv = [sys.executable, "-c", WORKER, str(built / "preload.so")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["1", "0", "1", "Seccomp:", "2"]
