#!/bin/bash
# GROMACS: a box of water, on RANKS of thread-MPI with THREADS of OpenMP each.
# usage: gromacs.sh RANKS THREADS [EDGE [STEPS]], EDGE in nm
set -e
edge=${3:-3}
export GMX_MAXBACKUP=-1
gmx -quiet solvate -cs spc216.gro -box "$edge" "$edge" "$edge" -o water.gro
cat >topol.top <<END
#include "oplsaa.ff/forcefield.itp"
#include "oplsaa.ff/spce.itp"
[ system ]
water
[ molecules ]
SOL $((($(wc -l <water.gro) - 3) / 3))
END
cat >run.mdp <<END
integrator = md
dt = 0.001
nsteps = ${4:-8000}
nstxout-compressed = 200
coulombtype = PME
gen-vel = yes
gen-seed = 1
END
gmx -quiet grompp -f run.mdp -c water.gro -p topol.top -o run.tpr -maxwarn 2
"${0%/*}/begin.sh"
gmx -quiet mdrun -s run.tpr -reprod -pin off -ntmpi "$1" -ntomp "$2"
cp confout.gro result
