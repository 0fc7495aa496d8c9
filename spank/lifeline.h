/* What the programs of this slurmstepd live by. */
#ifndef LIFELINE_H
#define LIFELINE_H

/* A descriptor that reads end of file once this slurmstepd is gone, or lifeline_cut() was called. -1 and errno on failure. */
int lifeline_open(void);

void lifeline_cut(void);

#endif
