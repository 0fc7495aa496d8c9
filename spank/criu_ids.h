/* User namespaces in which nobody is 0. */
#pragma once

/* Have CRIU find the ids of such a namespace in the file `path`, open as `fd`; return the descriptor to read. */
int show_ids(const char *path, int fd);
