#!/bin/bash
# AutoDock Vina: a ring of carbon atoms is fitted into a cage of them.
# usage: vina.sh [EDGE [EXHAUSTIVENESS]], EDGE in Å
set -e
edge=${1:-20}
atom() { # NUMBER X Y Z TYPE
	printf 'ATOM  %5d  C   LIG A   1    %8.3f%8.3f%8.3f  1.00  0.00    +0.000 %s\n' "$@"
}
{
	number=0
	for x in -8 -4 0 4 8; do for y in -8 -4 0 4 8; do for z in -8 8; do
		atom $((number += 1)) $x $y $z OA
		atom $((number += 1)) $z $x $y C
	done; done; done
} >receptor.pdbqt
{
	echo ROOT
	atom 1 0 0 0 C; atom 2 1.4 0 0 C; atom 3 2.1 1.2 0 C; atom 4 1.4 2.4 0 OA
	echo ENDROOT
	echo 'BRANCH   1   5'; atom 5 -0.7 -1.2 0 C
	echo 'BRANCH   5   6'; atom 6 -0.7 -2.0 1.2 C; atom 7 -1.9 -2.7 1.4 OA
	echo 'ENDBRANCH   5   6'; echo 'ENDBRANCH   1   5'
	echo TORSDOF 2
} >ligand.pdbqt
"${0%/*}/begin.sh"
vina --receptor receptor.pdbqt --ligand ligand.pdbqt --center_x 0 --center_y 0 --center_z 0 \
	--size_x "$edge" --size_y "$edge" --size_z "$edge" --seed 7 --cpu 2 --exhaustiveness "${2:-256}" --out out.pdbqt
cp out.pdbqt result
