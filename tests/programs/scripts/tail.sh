#!/bin/bash
# A pipeline behind `tail -f`, while a background job writes.
set -e
: >lines
"${0%/*}/begin.sh"
(for i in $(seq 150); do echo "$i" >>lines; sleep 0.1; done; echo end >>lines) &
tail -n +1 -f lines | sed -u '/^end$/q' | awk '/^[0-9]/ { sum += $1 } END { print NR, sum }' >result
wait
