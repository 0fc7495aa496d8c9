#!/bin/bash
# SysV shared memory and semaphores, and POSIX shared memory, between two processes.
set -e
cat >shared.c <<'END'
#include <fcntl.h>
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>
static int sem;
static void turn(int number, int by)
{
	struct sembuf change = { number, by, 0 };
	semop(sem, &change, 1);
}
int main(void)
{
	long *sysv = shmat(shmget(IPC_PRIVATE, 1 << 24, 0600), NULL, 0), *posix;
	int fd = shm_open("/numbers", O_RDWR | O_CREAT, 0600);
	ftruncate(fd, 1 << 24);
	posix = mmap(NULL, 1 << 24, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	sem = semget(IPC_PRIVATE, 2, 0600);
	if (fork() == 0) {
		for (int i = 0; i < 1500; i++) {
			turn(0, -1);
			posix[i * 100] = sysv[i * 100] * 2;
			turn(1, 1);
		}
		return 0;
	}
	long sum = 0;
	for (int i = 0; i < 1500; i++) {
		sysv[i * 100] = i;
		turn(0, 1);
		turn(1, -1);
		sum += posix[i * 100];
		usleep(10000);
	}
	wait(NULL);
	shm_unlink("/numbers");
	printf("%ld\n", sum);
}
END
gcc -O1 -o shared shared.c
"${0%/*}/begin.sh"
./shared >result
