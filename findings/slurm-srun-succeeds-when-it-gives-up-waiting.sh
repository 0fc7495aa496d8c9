#!/bin/sh
# srun 24.11.5 (Debian trixie).
#
# If a step is cancelled, srun waits KillWait + 2 seconds for its end. If the step takes longer, say because of its
# TaskEpilog, srun gives up with "Timed out waiting for job step to complete", and then its own exit status is 0, as if
# the step had succeeded: `srun … && next` goes on. A step that ends in time gives the status of its tasks. The same step,
# cancelled each time, with KillWait=1 and a TaskEpilog of 0 and of 8 seconds:
#
#     TaskEpilog of 0 s: srun's status 143
#     TaskEpilog of 8 s: srun's status 0
#
# Needs root and what `make test` needs.
set -eu

cd "$(dirname "$0")/.."
cluster() {
	verb=$1
	shift
	.venv/bin/python -B -m tests.harness.cluster "$verb" --name finding-gives-up "$@"
}
on_ctl() { cluster exec ctl -- "$@"; }
folder=$(mktemp -d)
trap 'rm -r "$folder"; cluster down >/dev/null' EXIT

status_with() { # SECONDS of TaskEpilog; sets `status`
	cluster up --nodes 1 --no-install --kill-wait 1 --slurm-conf TaskEpilog=/var/tmp/epilog >/dev/null
	cluster exec --user root n1 -- sh -c "printf '#!/bin/sh\nsleep $1\n' >/var/tmp/epilog; chmod 755 /var/tmp/epilog"
	on_ctl sh -c 'srun -n1 sleep 600 2>/dev/null; echo $?' >"$folder/status" &
	for _ in $(seq 300); do
		[ "$(on_ctl squeue --steps --noheader --format=%i --steps=1.0)" = 1.0 ] && break
		sleep 0.2
	done
	sleep 2
	on_ctl scancel 1
	wait $!
	status=$(cat "$folder/status")
	echo "TaskEpilog of $1 s: srun's status $status"
	cluster down >/dev/null
}

status_with 0
[ "$status" = 143 ] || { echo "this has changed" >&2; exit 1; }
status_with 8
[ "$status" = 0 ] || { echo "this has changed" >&2; exit 1; }
