#!/bin/bash
# R: mclapply, which forks.
set -e
"${0%/*}/begin.sh"
Rscript - >result <<'END'
library(parallel)
total <- 0
for (round in 1:30) {
    found <- mclapply(1:4, function(n) { set.seed(n + round); sum(sort(runif(1.5e6))) }, mc.cores = 2)
    total <- total + sum(unlist(found))
}
cat(format(total, digits = 12), "\n")
END
