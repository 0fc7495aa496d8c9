#!/bin/bash
# OpenMP, with its threads bound to processors.
set -e
cat >sum.c <<'END'
#include <omp.h>
#include <stdio.h>
int main(void)
{
	long long sum = 0;
	int bound = 0;
	for (int round = 0; round < 400; round++) {
#pragma omp parallel reduction(+ : sum)
		{
			unsigned seed = omp_get_thread_num() + round;
			for (int i = 0; i < 20000000; i++)
				sum += (seed = seed * 1664525u + 1013904223u) >> 24;
		}
		bound = omp_get_proc_bind();
	}
	printf("%lld %d\n", sum, bound != omp_proc_bind_false);
}
END
gcc -O1 -fopenmp -o sum sum.c
"${0%/*}/begin.sh"
OMP_NUM_THREADS=2 OMP_PROC_BIND=true ./sum >result
