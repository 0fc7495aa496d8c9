"""Prepare and run a bundle for one task, if Slurm leaves config.json alone (IgnoreFileConfigJson of oci.conf(5)).

The copy of config.json gets here what slurmstepd would have put into it (_modify_config() in Slurm's container.c).
"""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.cli import parse
from oci_criu_shim.container import registry
from oci_criu_shim.container.bundle import load
from oci_criu_shim.container.record import Container
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.log import Log
from oci_criu_shim.slurm.tasks import BATCH_SCRIPT, BATCH_STEP, RUN_DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oci_criu_shim.files import Document


def main(argv: Sequence[str]) -> int:
    """Run BUNDLE SPOOL USER UID NODE JOB STEP TASK COMMAND..., from oci.conf's patterns; return the exit status."""
    bundle, spool, user, _, node, job, step, task, *command = argv
    name = f"{node}.{user}.{job}.{step}.{task}"
    root = os.path.join(RUN_DIRECTORY, job)
    # No container's directory can have such a name: no id begins with a dot or an equals sign.
    made = os.path.join(root, ".bundles", f"={name}")
    try:
        config = load(bundle).config
        environment = read_environment(os.path.join(spool, "environment"))
        registry.require_free(Container(root, name))
        os.makedirs(made, mode=0o700, exist_ok=True)
        changed = configured(config, bundle, command, environment, int(step) == BATCH_STEP, os.isatty(0))
        files.write_json(os.path.join(made, "config.json"), changed)
        return parse.main([f"--root={root}", "run", f"--bundle={made}", name])
    except ShimError as error:
        Log().error(error.line())
        return error.status
    except (OSError, ValueError) as error:
        Log().error(f"{bundle} cannot be run: {line_of(error)}")
        return 1


def read_environment(path: str) -> dict[str, str]:
    """Return the job's environment from the file that Slurm writes, one variable a line."""
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        return dict(line.rstrip("\n").partition("=")[::2] for line in stream)


def configured(
    config: Document,
    bundle: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    batch: bool,
    terminal: bool,
) -> Document:
    """Return `config` of the bundle at `bundle`, changed for `command`; the job's variables win over its own."""
    process = config.get("process", {})
    variables = dict(entry.partition("=")[::2] for entry in process.get("env", [])) | dict(environment)
    program, *arguments = command
    mounts = list(config.get("mounts", []))
    if batch:
        source = {"destination": BATCH_SCRIPT, "type": "none", "source": program, "options": ["bind", "ro"]}
        program, mounts = BATCH_SCRIPT, [*mounts, source]
    return {
        **config,
        "root": {**config["root"], "path": os.path.join(bundle, config["root"]["path"])},
        "mounts": mounts,
        "process": {
            "cwd": "/",
            **process,
            "terminal": terminal,
            "env": [f"{key}={value}" for key, value in variables.items()],
            "args": [program, *arguments],
        },
    }
