/* The plugin's arguments in plugstack.conf. */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

/* Return the directory of metrics=DIR, or NULL if there is none. Log any argument that is not understood. */
const char *arguments_metrics(int argc, char *const argv[]);

#endif
