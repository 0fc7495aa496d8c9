#!/bin/sh
# slurmctld 24.11.5 (Debian trixie); the sources of 26.05.3 are the same.
#
# If a preempted job's batch script ends within its grace time, slurmctld requeues the job, as it should, but counts
# that as it counts failed launches (_job_complete()): from the fifth time on the job is held (MaxBatchRequeue=5), and
# only an admin can release it. Slurm's own requeue at the end of the grace time is not counted, nor is `scontrol
# requeue`. But both leave the mark GRACE_PREEMPT on the job, so when its next run has ended by itself, with whatever
# status, slurmctld takes that for an end within the grace time: the job is requeued once more, which counts
# (_slurm_rpc_complete_batch_script()). With MaxBatchRequeue=1:
#
#     ends in its grace time:     restarts 1, launch_failure_limit_exceeded_requeued_held
#     requeued in its grace time: restarts 1, not held
#     and then ends by itself:    restarts 2, launch_failure_limit_exceeded_requeued_held
#
# Needs root and what `make test` needs.
set -eu

cd "$(dirname "$0")/.."
cluster() {
	verb=$1
	shift
	.venv/bin/python -B -m tests.harness.cluster "$verb" --name finding-counts "$@"
}
on_ctl() { cluster exec ctl -- "$@"; }
submit() { on_ctl sbatch --parsable --output=/dev/null "$@"; }
field() { on_ctl scontrol show job "$1" --oneliner | sed -n "s/.* $2=\([^ ]*\).*/\1/p"; }
await() { # JOB FIELD PATTERN
	for _ in $(seq 600); do
		# shellcheck disable=SC2254
		case $(field "$1" "$2") in $3) return ;; esac
		sleep 0.2
	done
	echo "job $1 did not come to $2=$3: $(field "$1" "$2")" >&2
	exit 1
}
preempt() { # JOB; sets `by`
	await "$1" JobState RUNNING
	by=$(submit -p high --exclusive --wrap 'sleep 600')
	await "$1" PreemptTime '20*'
}
tell() { echo "$1 restarts $(field "$2" Restarts), $(field "$2" Reason)"; }

trap 'cluster down >/dev/null' EXIT
cluster up --nodes 1 --no-install --grace-time 30 --kill-wait 1 --requeue-delay 5 --slurm-conf MaxBatchRequeue=1 >/dev/null
held=launch_failure_limit_exceeded_requeued_held

job=$(submit -p low --wrap 'sleep 600 & wait')
preempt "$job"
on_ctl scancel --batch --signal=USR1 "$job"
await "$job" Reason $held
tell 'ends in its grace time:    ' "$job"
on_ctl scancel "$job" "$by"

job=$(submit -p low --wrap 'sleep 5; exit 3')
preempt "$job"
on_ctl scontrol requeue "$job"
on_ctl scancel "$by"
await "$job" JobState RUNNING
tell 'requeued in its grace time:' "$job"
await "$job" Reason $held
tell 'and then ends by itself:   ' "$job"
[ "$(field "$job" Restarts)" = 2 ] || { echo "this has changed" >&2; exit 1; }
