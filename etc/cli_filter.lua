-- Slurm's cli_filter.lua (CliFilterPlugins=lua): warn at the submission of a job with --checkpoint
-- if it may use more memory than can be written in its partition's GraceTime. It refuses nothing
-- and changes nothing. Copy it to /etc/slurm/cli_filter.lua on hosts that submit jobs. sbatch,
-- salloc and srun run it, as the user: slurmctld's job_submit.lua is not told of GraceTime.
--
-- If the site has a cli_filter.lua of its own, begin that with
-- dofile("/etc/oci-criu-shim/cli_filter.lua"), and call oci_criu_shim_foresee(options) in its
-- slurm_cli_pre_submit.

local program = "/usr/bin/oci-criu-shim"
local ours = {"checkpoint", "checkpoint-interval", "checkpoint-dir"}
local slurms = {"partition", "qos", "mem", "mem-per-cpu", "cpus-per-task", "ntasks", "ntasks-per-node", "nodes"}

local function quoted(text)
	return "'" .. string.gsub(tostring(text), "'", "'\"'\"'") .. "'"
end

function oci_criu_shim_foresee(options)
	local asked = options.spank and options.spank.oci_criu_shim
	if not asked or not asked.checkpoint then
		return
	end
	if options.type == "srun" and os.getenv("SLURM_JOB_ID") then
		return -- a step: its job's memory and partition are already decided
	end
	local words = {program, "job", "foresee", "--quiet"}
	for _, name in ipairs(ours) do
		words[#words + 1] = asked[name] and quoted("--" .. name .. "=" .. asked[name])
	end
	for _, name in ipairs(slurms) do
		local value = options[name]
		words[#words + 1] = value and quoted("--" .. name .. "=" .. value)
	end
	os.execute("test ! -x " .. program .. " || exec " .. table.concat(words, " "))
end

function slurm_cli_setup_defaults(options, early)
	return slurm.SUCCESS
end

function slurm_cli_pre_submit(options, offset)
	oci_criu_shim_foresee(options)
	return slurm.SUCCESS
end

function slurm_cli_post_submit(offset, job, step)
	return slurm.SUCCESS
end
