"""Times each verb of both runtimes: `python3 verbs.py ROUNDS` in a node, as root; JSON {program: {verb: [seconds]}}."""

import json
import os
import subprocess
import sys
import time

BUNDLE = "/shared/verbs"
NULL = subprocess.DEVNULL
# After `start` in this order; what a verb needs besides the id.
VERBS = {
    "state": [],
    "exec": ["true"],
    "ps": [],
    "pause": [],
    "resume": [],
    "update": [],
    "kill": ["KILL"],
}


def timed(*argv: str) -> float:
    begin = time.perf_counter()
    subprocess.run(argv, stdin=NULL, stdout=NULL, check=True)
    return time.perf_counter() - begin


def wait_stopped(runtime: list[str]) -> None:
    while '"stopped"' not in subprocess.run([*runtime, "state", "one"], capture_output=True, text=True).stdout:
        time.sleep(0.01)


def one_round(program: str) -> dict[str, float]:
    runtime = [program, f"--root=/run/verbs-{program}"]
    found = {"create": timed(*runtime, "create", f"--bundle={BUNDLE}", "one")}
    found["start"] = timed(*runtime, "start", "one")
    for verb, words in VERBS.items():
        options = ["--pids-limit=100"] if verb == "update" else []
        found[verb] = timed(*runtime, verb, *options, "one", *words)
    wait_stopped(runtime)
    found["list"] = timed(*runtime, "list")
    found["delete"] = timed(*runtime, "delete", "one")
    return found


def main() -> None:
    times: dict[str, dict[str, list[float]]] = {"python": {"start": []}}
    for _ in range(int(sys.argv[1])):
        times["python"]["start"].append(timed("python3", "-IS", "-c", "pass"))
        for program in ("oci-criu-shim", "crun"):
            for verb, seconds in one_round(program).items():
                times.setdefault(program, {}).setdefault(verb, []).append(seconds)
    for program in ("oci-criu-shim", "crun"):
        subprocess.run(["rm", "-r", f"/run/verbs-{program}"], check=True)
    json.dump(times, sys.stdout)


if __name__ == "__main__":
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    main()
