#!/bin/bash
# tmux, with a program in one of its windows.
set -e
"${0%/*}/begin.sh"
tmux -S "$PWD/socket" -f /dev/null new-session -d -x 80 -y 24 \
	"for i in \$(seq 150); do echo \"line \$i \$(tput cols)\" >>lines; sleep 0.1; done; touch ended"
until [ -e ended ]; do sleep 0.2; done
{ wc -l <lines; tail -n 1 lines; } >result
