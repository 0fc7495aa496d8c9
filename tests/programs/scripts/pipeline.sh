#!/bin/bash
# A shell's background jobs, a pipeline, a trap and a here document.
set -e
trap 'echo trapped >>said' USR1
"${0%/*}/begin.sh"
for worker in 1 2 3; do
	(for i in $(seq 50); do echo "$worker $i"; sleep 0.2; done >"worker.$worker") &
done
seq 200000 | while read -r number; do [ $((number % 1000)) != 0 ] || { echo "$number"; sleep 0.05; }; done | sort -n | tail -n 1 >last
wait
kill -USR1 $$
cat worker.* last said - >all <<<"shell level $SHLVL"
sed '/^shell level/d' all | sort | cksum >result
