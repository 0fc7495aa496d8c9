/* The node's counters of dumps, a file for the textfile collector of Prometheus's node_exporter. */
#ifndef METRICS_H
#define METRICS_H

#include <stdint.h>

/*
 * Add what a worker that has ended wrote to the descriptor (struct report of protocol.h), if anything, to the file in the
 * directory. It had lived for so many nanoseconds. What goes wrong is logged.
 */
void metrics_add(const char *directory, int reports, uint64_t lived);

#endif
