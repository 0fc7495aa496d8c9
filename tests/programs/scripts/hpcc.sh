#!/bin/bash
# HPC Challenge, and HPL at its end: whether each of their checks passed.
# usage: hpcc.sh [RANKS [N [PFACT…]]], N being HPL's, which is repeated for each PFACT
set -e
ranks=${1:-3}
factorizations=("${@:3}")
((${#factorizations[@]})) || factorizations=(2)
export OPENBLAS_NUM_THREADS=1 # each rank has a processor
cat >hpccinf.txt <<END
HPLinpack benchmark input file
of this script
HPL.out output file name (if any)
8 device out (6=stdout,7=stderr,file)
1 # of problems sizes (N)
${2:-2500} Ns
1 # of NBs
80 NBs
0 PMAP process mapping (0=Row-,1=Column-major)
1 # of process grids (P x Q)
1 Ps
$ranks Qs
16.0 threshold
${#factorizations[@]} # of panel fact
${factorizations[*]} PFACTs (0=left, 1=Crout, 2=Right)
1 # of recursive stopping criterium
4 NBMINs (>= 1)
1 # of panels in recursion
2 NDIVs
1 # of recursive panel fact.
1 RFACTs (0=left, 1=Crout, 2=Right)
1 # of broadcast
1 BCASTs (0=1rg,1=1rM,2=2rg,3=2rM,4=Lng,5=LnM)
1 # of lookahead depth
1 DEPTHs (>=0)
2 SWAP (0=bin-exch,1=long,2=mix)
64 swapping threshold
0 L1 in (0=transposed,1=no-transposed) form
0 U in (0=transposed,1=no-transposed) form
1 Equilibration (0=no,1=yes)
8 memory alignment in double (> 0)
END
"${0%/*}/begin.sh"
if [ "$ranks" = 1 ]; then
	hpcc
else
	mpirun.openmpi --oversubscribe -n "$ranks" hpcc
fi
{
	grep '^Success=' hpccoutf.txt
	grep -oE 'PASSED|FAILED' hpccoutf.txt | sort | uniq -c
} >result
