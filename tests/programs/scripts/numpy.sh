#!/bin/bash
# NumPy over OpenBLAS, with two threads.
set -e
export OPENBLAS_NUM_THREADS=2
"${0%/*}/begin.sh"
python3 - >result <<'END'
import numpy

matrix = numpy.random.default_rng(1).standard_normal((900, 900))
for number in range(400):
    matrix = matrix @ matrix.T
    matrix /= numpy.abs(numpy.linalg.eigvalsh(matrix[:300, :300])).max()
    matrix += numpy.eye(900)
print(*(f"{value:.6g}" for value in matrix.diagonal()))
END
