"""Times each verb of both runtimes: `python3 verbs.py ROUNDS` in a node, as root; JSON {program: {verb: [seconds]}}."""

import json
import os
import subprocess
import sys
import time

BUNDLE = "/shared/verbs"
SHORT = "/run/verbs-short"  # a bundle that ends at once
NULL = subprocess.DEVNULL
# After `start` in this order; what a verb needs before the id, and after it.
VERBS: dict[str, tuple[list[str], list[str]]] = {
    "state": ([], []),
    "exec": ([], ["true"]),
    "ps": ([], []),
    "pause": ([], []),
    "resume": ([], []),
    "update": (["--pids-limit=100"], []),
    "checkpoint": (["--leave-running", "--image-path=/run/verbs-images"], []),
    "kill": ([], ["KILL"]),
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
    found = {"features": timed(*runtime, "features"), "spec": timed(*runtime, "spec", f"--bundle={SHORT}")}
    prepare_short()
    found["run"] = timed(*runtime, "run", f"--bundle={SHORT}", "short")
    found["create"] = timed(*runtime, "create", f"--bundle={BUNDLE}", "one")
    found["start"] = timed(*runtime, "start", "one")
    for verb, (options, words) in VERBS.items():
        found[verb] = timed(*runtime, verb, *options, "one", *words)
    wait_stopped(runtime)
    found["list"] = timed(*runtime, "list")
    found["delete"] = timed(*runtime, "delete", "one")
    for path in (f"{SHORT}/config.json", "/run/verbs-images"):
        subprocess.run(["rm", "-r", path], check=True)
    return found


def prepare_short() -> None:
    """Have the long bundle's config.json in the place of that of `spec`, but for the program."""
    with open(f"{BUNDLE}/config.json", encoding="utf-8") as stream:
        config = json.load(stream)
    config["root"]["path"] = f"{BUNDLE}/rootfs"
    config["process"]["args"] = ["true"]
    with open(f"{SHORT}/config.json", "w", encoding="utf-8") as stream:
        json.dump(config, stream)


def main() -> None:
    times: dict[str, dict[str, list[float]]] = {"python": {"start": []}}
    os.mkdir(SHORT)
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
