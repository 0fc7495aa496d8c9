-- Slurm's scrun.lua (scrun(1)): run containers of Podman and Docker as steps of Slurm, with their
-- storage on a file system that all nodes share. Copy it to /etc/slurm/scrun.lua on all nodes.
--
-- It copies nothing of an image: it makes a bundle, with a config.json as oci.conf's runtimes want
-- it. It needs no library for JSON, which neither Lua nor Slurm has.

-- Below the user's home directory. A bundle is there as long as its container.
local bundles = ".local/share/oci-criu-shim/scrun"
local maker = "/usr/bin/python3 -IS /usr/lib/oci-criu-shim/scrun_bundle.py"

-- With a job of its own, Slurm 24.11's scrun now and then goes round in circles when its work is
-- done (watch() in src/conmgr), and Podman waits for its end. The command's parent is scrun, which
-- kills the command's process group when the command has ended: whatever must outlive it leaves
-- before.
local end_of_scrun = [[
	setsid --wait sh -c '(sleep 5; case $(cat "/proc/$0/comm") in scrun*) kill -KILL "$0" ;; esac) &' $PPID </dev/null >/dev/null 2>&1
]]

local function quoted(text)
	return "'" .. string.gsub(tostring(text), "'", "'\"'\"'") .. "'"
end

function slurm_scrun_stage_in(id, bundle, spool_dir, config_file, job_id, user_id, group_id, job_env)
	local arguments = {config_file, bundle, bundles .. "/" .. id}

	for _, number in ipairs({job_id, user_id, group_id}) do
		table.insert(arguments, string.format("%d", number))
	end
	for number, argument in ipairs(arguments) do
		arguments[number] = quoted(argument)
	end
	local status, output = slurm.allocator_command(maker .. " " .. table.concat(arguments, " "))
	if status ~= 0 then
		slurm.log_error(string.format("no bundle for %s: %s", id, output))
		return slurm.ERROR
	end
	slurm.set_bundle_path(string.match(output, "[^\n]+"))
	return slurm.SUCCESS
end

function slurm_scrun_stage_out(id, bundle, orig_bundle, root_path, orig_root_path, spool_dir, config_file, job_id, user_id, group_id)
	if bundle ~= orig_bundle then
		slurm.allocator_command("rm -rf -- " .. quoted(bundle))
	end
	slurm.allocator_command(end_of_scrun)
	return slurm.SUCCESS
end

return slurm.SUCCESS
