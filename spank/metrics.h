/* The node's counters of dumps: a file for the textfile collector of Prometheus's node_exporter. */
#ifndef METRICS_H
#define METRICS_H

#include <stdint.h>

/*
 * Add the reports of a worker that has ended (struct report of protocol.h), if it wrote any to the descriptor, to the
 * file in the directory. The worker lived for `lived` nanoseconds. Log any failure.
 */
void metrics_add(const char *directory, int reports, uint64_t lived);

#endif
