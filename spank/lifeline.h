/* The pipe that tells the programs of this slurmstepd that it is gone. */
#ifndef LIFELINE_H
#define LIFELINE_H

#include <stdbool.h>

/*
 * Return a descriptor that reads end of file once this slurmstepd is gone or has called lifeline_cut(). -1 and errno on
 * failure.
 */
int lifeline_open(void);

/* Tell if the lifeline of a program is open: there is one program at most. */
bool lifeline_is_held(void);

void lifeline_cut(void);

#endif
