#!/bin/bash
# LAMMPS: a melting crystal, by one process, with pauses.
set -e
cat >melt.in <<END
units lj
atom_style atomic
lattice fcc 0.8442
region box block 0 8 0 8 0 8
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create 3.0 87287
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0 2.5
fix 1 all nve
thermo 100
run 2000 every 50 "shell sleep 0.3"
END
"${0%/*}/begin.sh"
lmp -in melt.in -log log -screen none
grep -E '^ +[0-9]+ +[0-9.]+ ' log >result
