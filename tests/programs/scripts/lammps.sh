#!/bin/bash
# LAMMPS: a melting crystal, by one process, with a pause after so many steps.
# usage: lammps.sh [EDGE [STEPS [UNTIL_PAUSE]]], EDGE in cells of four atoms
set -e
edge=${1:-8}
cat >melt.in <<END
units lj
atom_style atomic
lattice fcc 0.8442
region box block 0 $edge 0 $edge 0 $edge
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create 3.0 87287
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0 2.5
fix 1 all nve
thermo 100
run ${2:-2000} every ${3:-50} "shell sleep 0.3"
END
"${0%/*}/begin.sh"
lmp -in melt.in -log log -screen none
grep -E '^ +[0-9]+ +[0-9.]+ ' log >result
