#!/bin/sh
# Slurm 26.05.5 (Debian forky).
#
# A job submitted with `sbatch --requeue=expedite` never becomes FAILED. If its script ends with another status than 0,
# slurmctld requeues the job although nothing has preempted it and no node has failed, finds that no epilog failed, and
# holds it: it stays pending, with the status of its script, until somebody releases it (then it runs and is held again)
# or cancels it. What depends on the job's end waits as long. sbatch's manual says no more than that such a job is
# eligible at once when it is requeued. The same script, submitted in both ways:
#
#     --requeue: FAILED, NonZeroExitCode, 0 restarts
#     --requeue=expedite: REQUEUE_HOLD, job_requeued_in_held_state, 1 restarts
#
# Needs root and what `make test` needs.
set -eu

cd "$(dirname "$0")/.."
export SUITE=forky
cluster() {
	verb=$1
	shift
	.venv/bin/python -B -m tests.harness.cluster "$verb" --name finding-expedited "$@"
}
on_ctl() { cluster exec ctl -- "$@"; }
trap 'cluster down >/dev/null' EXIT

shown() { # JOB NAME: the value of one of its fields
	on_ctl scontrol show job "$1" --oneliner | tr ' ' '\n' | sed -n "s/^$2=//p"
}

state_with() { # OPTION; sets `state`
	job=$(on_ctl sbatch --parsable "$1" --wrap 'exit 3')
	for _ in $(seq 60); do
		case $(shown "$job" JobState) in FAILED | REQUEUE_HOLD) break ;; esac
		sleep 0.5
	done
	state="$(shown "$job" JobState), $(shown "$job" Reason), $(shown "$job" Restarts) restarts"
	echo "$1: $state"
}

cluster up --nodes 1 --no-install --slurm-conf SlurmctldParameters=enable_expedited_requeue >/dev/null
state_with --requeue
[ "$state" = "FAILED, NonZeroExitCode, 0 restarts" ] || { echo "this has changed" >&2; exit 1; }
state_with --requeue=expedite
[ "$state" = "REQUEUE_HOLD, job_requeued_in_held_state, 1 restarts" ] || { echo "this has changed" >&2; exit 1; }
