#!/bin/bash
# Three ranks hand a number on in a ring, and sum up what each has computed. Open MPI or MPICH.
# usage: ring.sh openmpi|mpich
set -e
cat >ring.c <<'END'
#include <mpi.h>
#include <stdio.h>
int main(int argc, char **argv)
{
	int rank, size;
	long token = 1;
	double sum = 0, all = 0;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	for (int round = 0; round < 3000; round++) {
		if (rank)
			MPI_Recv(&token, 1, MPI_LONG, rank - 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		token = (token * 3 + rank) % 1000003;
		MPI_Send(&token, 1, MPI_LONG, (rank + 1) % size, 0, MPI_COMM_WORLD);
		if (!rank)
			MPI_Recv(&token, 1, MPI_LONG, size - 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		for (int i = 1; i < 1000000; i++)
			sum += (rank + 1.0) / i;
		MPI_Allreduce(&sum, &all, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
	}
	if (!rank)
		printf("%ld %.6f\n", token, all);
	MPI_Finalize();
}
END
if [ "$1" = openmpi ]; then
	mpicc.openmpi -O1 -o ring ring.c
	launch=(mpirun.openmpi --oversubscribe)
else
	mpicc.mpich -O1 -o ring ring.c
	launch=(mpirun.mpich)
fi
touch begun
"${launch[@]}" -n 3 ./ring >result
