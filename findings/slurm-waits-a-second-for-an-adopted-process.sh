#!/bin/sh
# slurmstepd 24.11.5 (Debian trixie), proctrack/cgroup, PrologFlags=Contain.
#
# At a job's end the extern step kills what is in it, a login that pam_slurm_adopt has put there, say, looks at once
# whether that has ended, which it has not yet, and then sleeps a second before it looks again (proctrack_p_wait()). So
# a job's node is free a second later if anything is in its extern step, however fast that ends. The same job twice, of
# which the second has a `sleep` in its extern step, put there as pam_slurm_adopt does it; from the last sign of the
# batch step to the last of the extern step:
#
#     nothing adopted: 0.0 s
#     one process adopted: 1.0 s
#
# Needs root and what `make test` needs.
set -eu

cd "$(dirname "$0")/.."
cluster() {
	verb=$1
	shift
	.venv/bin/python -B -m tests.harness.cluster "$verb" --name finding-adopted "$@"
}
on() { # USER NODE COMMAND…
	user=$1 node=$2
	shift 2
	cluster exec --user "$user" "$node" -- "$@"
}
trap 'cluster down >/dev/null' EXIT
cluster up --nodes 1 --no-install >/dev/null

# Print the seconds between the ends of job NUMBER's steps, after an extern step with the program ADOPTED, if any.
seconds() { # NUMBER ADOPTED
	on alice ctl sbatch --output=/dev/null --wrap 'sleep 5' >/dev/null
	until on root n1 sh -c "ls -d /sys/fs/cgroup/*/slurm_n1/uid_*/job_$1/step_extern >/dev/null 2>&1"; do sleep 0.2; done
	[ -z "$2" ] || on root n1 sh -c "$2 >/dev/null 2>&1 & for group in /sys/fs/cgroup/*/slurm_n1/uid_*/job_$1/step_extern; do
		echo \$! >\$group/cgroup.procs; done"
	while on alice ctl squeue --noheader --format=%i | grep -q .; do sleep 0.5; done
	on root n1 sh -c 'cat /var/log/slurm/slurmd.log /var/log/slurmd.log 2>/dev/null' |
		sed -n "s/^\[.*T..:\(..\):\([0-9.]*\)\] \[$1\.\([a-z]*\)\] .*done with step.*/\3 \1 \2/p" |
		awk '{ at[$1] = 60 * $2 + $3 } END { printf "%.1f\n", at["extern"] - at["batch"] }'
}

plain=$(seconds 1 '')
echo "nothing adopted: $plain s"
adopted=$(seconds 2 'sleep 600')
echo "one process adopted: $adopted s"
awk "BEGIN { exit !($plain < 0.5 && $adopted >= 0.9) }" || { echo "this has changed" >&2; exit 1; }
