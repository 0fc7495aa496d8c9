#!/bin/sh
# What the plugin's prolog and epilog do with the contents of a job's run directory, as the job's user. It is built
# into the plugin, which runs `sh -p -c` (rundir.c) until that closes descriptor 3: nothing looks for this file at run
# time. The user can write all that is read here, so no more of it is read than the runtime writes.
hook=$1 directory=$2 job=$3 mark=$4 scontrol=$5 runtime=$6

update() {
	"$scontrol" update "$job" "$1" </dev/null
}

# Make a job that was requeued after its checkpoint eligible at once. slurmctld's batch_requeue_fini() holds it back
# for the lifetime of a credential, 121 s, unless its begin time lies in the future when the epilog of its last node is
# done.
#
# The mark's first line is the job's name, since the number of an array's last task is the whole array's number, too.
# The second may say that the job is expedited, so that Slurm itself makes it eligible at once, or that it goes on
# elsewhere, where no launch of this second can be mistaken for one of before. More lines may say which
# nodes to leave out, which to wait for, and which features the nodes must have; Slurm accepts these for pending jobs
# only. Each is an update of its own: if Slurm refuses one, the others must not be held back.
release_requeued() {
	[ -f "$mark" ] || return
	{
		IFS= read -r name
		case $name in JobId=*) job=$name ;; esac
		IFS= read -r setting
		[ "$setting" = expedited ] || update StartTime=now+3seconds
		case $setting in
		expedited) IFS= read -r setting ;;
		elsewhere) begin=now; IFS= read -r setting ;;
		*) begin=now+1 ;;
		esac
		for _ in 2 3 4; do
			case $setting in ExcNodeList=* | ReqNodeList=* | Features=*) update "$setting" ;; esac
			IFS= read -r setting
		done
	} <<-END
		$(head -c 4096 "$mark")
	END
}

# Have the job begin as soon as slurmctld has seen the end of its last epilog, of which this is a part: nobody waits for
# what is done from here on. Else it would begin when slurmctld next looks at all jobs, bf_interval of
# SchedulerParameters: up to 30 s later. It must not begin in the second in which it was ended, by slurmctld's clock:
# slurmd takes no launch of that (cred_revoked() in slurmd), and slurmctld would hold the job. If slurmctld looks at it
# just before the next one, it is told once more.
bring_forward() {
	cd /
	exec 3>&-
	for pause in 0 0.2 0.2 0.3 0.3 0.5 0.5 1 1 2 2 3 3 4 4; do
		sleep "$pause"
		state=$(state) || continue
		[ "$state" = COMPLETING ] || break
	done
	[ "$state" = PENDING ] || return
	update "StartTime=$begin"
	[ "$begin" != now ] || return
	sleep 1.5
	[ "$(state)" != PENDING ] || update StartTime=now
}

state() {
	"${scontrol%/*}/squeue" --noheader --jobs="${job#JobId=}" --format=%T </dev/null
}

# Remove what the runtime has left links to. While it writes a checkpoint, stage.<pid> in its container's directory
# leads to it: if the runtime was killed, that is half a checkpoint, which nobody else will remove. In the job's
# directory, it leads to a checkpoint in memory that was being copied to the others. local.<number> leads to one that is
# on this node alone, and is copied to the others now: the job does not start again before. kept.<number> leads to the
# checkpoints that the job would start from again. They go once the job has completed, and the runtime finds out if it
# has, since even a job that is marked as requeued may have completed.
clear_links() {
	count=0
	for link in stage.* */stage.* local.* kept.* received.*; do
		[ $((count += 1)) -le 256 ] || break
		to=$(readlink -- "$link") || continue
		case $to in [!/]* | */../* | */..) continue ;; esac
		case $link:${to##*/} in
		local.*) [ "$hook" = prolog ] || "$runtime" ckpt drain -- "$to" </dev/null ;;
		kept.*) "$runtime" ckpt prune --completed -- "$to" ;;
		received.*) received=$to number=${to##*/oci-criu-shim.} ;;
		*:.stage.*) rm -rf --one-file-system -- "$to" ;;
		esac
	done
}

# Remove what this job has received into the node's memory for another one, if that has not taken it over by then.
clear_received() {
	cd /
	exec 3>&-
	for manifest in "$received"/*/manifest.json; do
		# Else half a checkpoint is there, or one that no job can be waiting for.
		[ "$hook" = prolog ] || [ ! -f "$manifest" ] || sleep 20
	done
	# Another job may have this node by now, for long: the one that waits needs its memory wherever it goes on.
	for manifest in "$received"/*/manifest.json; do
		[ ! -f "$manifest" ] || "$runtime" job receive --keep="$received" -- "${number%%.*}" </dev/null
	done
	rm -rf --one-file-system -- "$received"
}

cd -- "$directory" || exit
received=
clear_links
begin=
[ "$hook" = prolog ] || release_requeued
[ -z "$begin" ] || bring_forward
[ -z "$received" ] || clear_received
