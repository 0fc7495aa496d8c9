"""System calls that CRIU finds interrupted begin again (spank/criu_restart.c)."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "spank/criu_restart.c"
# In CRIU's place: `CALL [signal|"let go"]`. A child waits in a system call, and is stopped there. Its registers are
# printed, or what it does once it was let go (S: it waits, Z: it has ended). A signal is one that it has a handler for.
PROGRAM = r"""
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void handle(int number)
{
	(void)number;
}

static void wait_in(const char *call)
{
	struct timespec long_time = {1000, 0}, rest;
	struct timeval limit = {1000, 0};
	struct epoll_event event;
	int ends[2];
	char byte;

	if (!strcmp(call, "nanosleep"))
		nanosleep(&long_time, NULL);
	else if (!strcmp(call, "sleep"))
		syscall(SYS_nanosleep, &long_time, &rest);
	else if (!strcmp(call, "clock_nanosleep"))
		syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &long_time, &rest);
	else if (!strcmp(call, "poll"))
		poll(NULL, 0, 1000000);
	else if (!strcmp(call, "pause"))
		pause();
	else if (!strcmp(call, "epoll_wait"))
		epoll_wait(epoll_create1(0), &event, 1, -1);
	else if (!strcmp(call, "recv")) {
		socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
		setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		recv(ends[0], &byte, 1, 0);
	}
}

static char state_of(pid_t pid)
{
	char path[64], state;
	FILE *stat;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	stat = fopen(path, "r");
	fscanf(stat, "%*d (program) %c", &state);
	fclose(stat);
	return state;
}

int main(int argc, char **argv)
{
	struct user_regs_struct registers;
	struct iovec found = {&registers, sizeof(registers)};
	pid_t child = fork();

	if (!child) {
		signal(SIGUSR1, handle);
		wait_in(argv[1]);
		_exit(0);
	}
	while (state_of(child) != 'S')
		usleep(10000);
	ptrace(PTRACE_SEIZE, child, NULL, NULL);
	ptrace(PTRACE_INTERRUPT, child, NULL, NULL);
	waitpid(child, NULL, 0);
	if (argc > 2 && !strcmp(argv[2], "let go")) {
		ptrace(PTRACE_DETACH, child, NULL, NULL);
		while (!strchr("SZ", state_of(child)))
			usleep(10000);
		printf("%c\n", state_of(child));
	} else {
		if (argc > 2)
			kill(child, SIGUSR1);
		ptrace(PTRACE_GETREGSET, child, (void *)NT_PRSTATUS, &found);
		printf("%lld\n", (long long)registers.rax);
		if (!strcmp(argv[1], "sleep") && registers.rdi == registers.rsi)
			printf("the rest\n");
		if (!strcmp(argv[1], "clock_nanosleep") && registers.rdx == registers.r10)
			printf("the rest\n");
	}
	kill(child, SIGKILL);
}
"""

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="there is nothing to do on other machines")
CALLS = pytest.mark.parametrize("call", ["nanosleep", "poll", "pause", "epoll_wait", "recv"])
EINTR, RESTART_NO_HANDLER = "-4", "-514"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("library")
    (directory / "program.c").write_text(PROGRAM)
    strict = ["cc", "-O2", "-Wall", "-Werror", "-Wno-unused-result"]
    subprocess.run([*strict, "-shared", "-fPIC", "-o", str(directory / "restart.so"), str(SOURCE)], check=True)
    subprocess.run([*strict, "-o", str(directory / "program"), str(directory / "program.c")], check=True)
    return directory


def said(built: Path, *words: str) -> str:
    """What the program prints."""
    environment = {"LD_PRELOAD": str(built / "restart.so")}
    argv = [str(built / "program"), *words]
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


@CALLS
def test_it_begins_again(built: Path, call: str) -> None:
    assert said(built, call) == RESTART_NO_HANDLER


@pytest.mark.parametrize("call", ["sleep", "clock_nanosleep"])
def test_a_sleep_goes_on_with_the_rest(built: Path, call: str) -> None:
    """If the program has the kernel tell it, as coreutils' sleep does."""
    assert said(built, call).split("\n") == [RESTART_NO_HANDLER, "the rest"]
    assert said(built, call, "signal") == EINTR


@CALLS
def test_it_ends_if_a_handler_is_to_run(built: Path, call: str) -> None:
    """Or a program that waits for the signal would wait for ever."""
    assert said(built, call, "signal") == EINTR


@CALLS
def test_it_goes_on_if_nobody_read_the_registers(built: Path, call: str) -> None:
    assert said(built, call, "let go") == "S"
