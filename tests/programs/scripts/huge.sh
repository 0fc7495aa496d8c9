#!/bin/bash
# A GiB of memory in huge pages, as the kernel gives them to whoever asks for them (madvise(2)).
set -e
cat >huge.c <<'END'
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void)
{
	size_t count = (1UL << 30) / sizeof(uint64_t);
	uint64_t *numbers = mmap(NULL, 1UL << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), sum = 0;
	madvise(numbers, 1UL << 30, MADV_HUGEPAGE);
	for (size_t i = 0; i < count; i++)
		numbers[i] = i * 2654435761u;
	for (int round = 0; round < 150; round++) {
		for (size_t i = round; i < count; i += 4096)
			sum += numbers[i] ^= round;
		usleep(100000);
	}
	printf("%lu\n", sum);
}
END
gcc -O1 -o huge huge.c
"${0%/*}/begin.sh"
./huge >result
