#!/bin/bash
# Three ranks hand a number on in a ring, and sum up what each has. Open MPI or MPICH.
# usage: ring.sh openmpi|mpich
set -e
if [ "$1" = openmpi ]; then
	launch=(mpirun.openmpi --oversubscribe)
else
	launch=(mpirun.mpich)
fi
"${0%/*}/begin.sh"
"${launch[@]}" -n 3 python3 /shared/ring.py "$PWD/rounds" 70 0.2 >total
cat rounds total >result
