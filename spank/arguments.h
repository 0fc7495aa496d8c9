/* What stands after the plugin's path in plugstack.conf. */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

/* The directory of metrics=DIR; NULL where there is none. What can't be understood is logged. */
const char *arguments_metrics(int argc, char *const argv[]);

#endif
