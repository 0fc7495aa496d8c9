"""Options: what is taken, what is refused, and what a step is told."""

from __future__ import annotations

import subprocess
import tempfile
import unittest
from pathlib import Path

from .support import FORWARD, PLUGIN, Case, call, stepd

DIR = FORWARD + "checkpoint_dir"
TIMES = ("90s", "2h", "1h30m", "1w2d", "auto", "30", "20:30", "00:10:00", "1-0", "1-0:30", "1-12:00:00")

HAS_JOB_FAILURE = "ESPANK_JOB_FAILURE" in Path("/usr/include/slurm/slurm_errno.h").read_text()


class Submit(Case):
    def test_times(self) -> None:
        lists = ("preempt", "timeout", "preempt,timeout", "interval:30m,signal:SIGUSR1", "interval:0:30:00", "default")
        for value in (None, "", "(null)", "none", "off", *lists):
            with self.subTest(value=value):
                result = call("local", {"checkpoint": value}, quick=value != lists[3])
                self.assertTrue(result.accepted)
                self.assertEqual(result.hooks["slurm_spank_init_post_opt"], 0)

    def test_unknown_time_names_the_allowed(self) -> None:
        intervals = ("interval:", "interval:30x", "interval:0s")
        for value in ("Preempt", "preempt,", ",", "timeuot,preempt", *intervals, "signal:TERM"):
            with self.subTest(value=value):
                result = call("local", {"checkpoint": value}, quick=value != intervals[1])
                self.assertFalse(result.accepted)
                self.assertIn(f"--checkpoint={value}:", result.errors)
                wrong = "" if value in (",", "preempt,") else value.partition(",")[0]
                self.assertIn(f": '{wrong}' is no value of --checkpoint; allowed are preempt, timeout, ", result.errors)
                self.assertEqual(result.errors.count("\n"), 1)

    def test_values_of_the_others(self) -> None:
        for option, good, bad in (
            ("checkpoint-hook", ("close", "kill -USR1 $(cat '/tmp/pid'); sleep 1"), ("", "a\nb")),
            ("checkpoint-interval", TIMES, ("", "0m", "0", "0:00", "1.5h", "1y", "1m1h", "1h1", "1:2:3:4", "-1", "1-")),
            ("checkpoint-keep", ("1", "12"), ("", "0", "-1", "1x", "1001")),
            ("checkpoint-tcp", ("close", "refuse"), ("", "closed", "keep", "Close")),
            ("checkpoint-rerun", (None,), ()),
            ("restart-dir", ("/d", "12", "12:3", "12_3", "d", "8_x", "./8:x"), ("", "8:x", ":3")),
        ):
            for value in (*good, *bad):
                with self.subTest(option=option, value=value):
                    environment = {FORWARD + "restart_dir": value} if value and option == "restart-dir" else {}
                    quick = value != good[0]
                    result = call("local", {"checkpoint": None, option: value}, environment, quick=quick)
                    self.assertEqual(result.accepted, value in good)
                    self.assertEqual(result.errors.count("\n"), 0 if value in good else 1)

    def test_a_job_is_no_path(self) -> None:
        for value in ("12", "12:3", "12_3", "12_3:4"):
            result = call("local", {"checkpoint": None, "restart-dir": value}, {FORWARD + "restart_dir": value})
            self.assertEqual(result.control, {FORWARD + "restart_dir": value})

    def test_empty_directory(self) -> None:
        result = call("local", {"checkpoint": None, "checkpoint-dir": ""})
        self.assertFalse(result.accepted)
        self.assertIn("no directory given", result.errors)

    def test_directory_alone(self) -> None:
        result = call("local", {"checkpoint-dir": "/d"})
        self.assertLess(result.hooks["slurm_spank_init_post_opt"], 0)
        self.assertIn("without --checkpoint", result.errors)

    def test_relative_directory(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            result = call("local", {"checkpoint": None, "checkpoint-dir": "a/b"}, {DIR: "a/b"}, cwd=Path(directory))
        self.assertEqual(result.environment[DIR], f"{directory}/a/b")
        self.assertEqual(result.control, {DIR: f"{directory}/a/b"})

    def test_later_option_wins(self) -> None:
        result = call("local", {"checkpoint": "off", "checkpoint-dir": "/x"})
        self.assertTrue(result.accepted)
        self.assertEqual(result.control, {DIR: "/x"})

    def test_what_is_likely_wrong(self) -> None:
        """It may be right on the nodes."""
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "store/8/batch.0/2").mkdir(parents=True)
            (Path(place) / "file").touch()
            store = f"{place}/store"
            for options, said in (
                ({"checkpoint-dir": store}, []),
                ({"checkpoint-dir": f"{store}/new/"}, []),
                (
                    {"checkpoint-dir": f"{store}/none/new"},
                    ["/none/new: No such file or directory, and you can't make it"],
                ),
                ({"checkpoint-dir": f"{place}/file"}, ["/file is not a directory on this host"]),
                ({"checkpoint-dir": "store"}, [f"--checkpoint-dir is not an absolute path: it means {store}"]),
                ({"restart-dir": f"{place}/8"}, [f"--restart-dir={place}/8: No such file or directory on this host"]),
                ({"restart-dir": "9"}, []),
                *(({"checkpoint-dir": store, "restart-dir": there}, []) for there in ("8", "8:2", "7_1")),
                *(
                    (
                        {"checkpoint-dir": store, "restart-dir": missing},
                        [f"={missing}: there is no such checkpoint in "],
                    )
                    for missing in ("9", "8:3", "9:1")
                ),
                ({"checkpoint": "none", "restart-dir": f"{place}/8"}, []),
            ):
                with self.subTest(options=options):
                    forwarded = {FORWARD + name.replace("-", "_"): value for name, value in options.items()}
                    given: dict[str, str | None] = {"checkpoint": None, **options}
                    result = call(
                        "local", given, {"SLURM_JOB_ID": "7", **forwarded}, cwd=Path(place), quick=len(options) < 2
                    )
                    self.assertEqual((result.hooks["slurm_spank_init_post_opt"], result.errors), (0, ""))
                    self.assertEqual(len(result.said), len(said))
                    for line, words in zip(result.said, said, strict=True):
                        self.assertIn(words, line)

    def test_two_lines_in_plugstack_conf(self) -> None:
        result = call("local", {"checkpoint": None, "checkpoint-dir": "/none/x"}, {DIR: "/none/x"}, lines=2)
        self.assertEqual((result.hooks["slurm_spank_init_post_opt"], result.errors), (0, ""))
        self.assertEqual(len(result.said), 1)

    def test_nothing_asked(self) -> None:
        result = call("local")
        self.assertEqual((result.hooks["slurm_spank_init_post_opt"], result.control, result.errors), (0, {}, ""))


class Step(Case):
    STALE = {"SLURM_CHECKPOINT": "preempt", "SLURM_CHECKPOINT_DIR": "/stale"}

    def environment(self, options: dict[str, str | None], environment: dict[str, str]) -> dict[str, str]:
        call("prolog")
        with stepd(options, environment) as step:
            self.assertEqual(step.result.hooks["slurm_spank_init_post_opt"], 0)
            step.end()
            return step.result.environment

    def test_asked(self) -> None:
        found = self.environment({"checkpoint": "(null)", "checkpoint-dir": "/d"}, {})
        self.assertEqual(found, {"SLURM_CHECKPOINT": "default", "SLURM_CHECKPOINT_DIR": "/d"})

    def test_asked_without_directory(self) -> None:
        self.assertEqual(self.environment({"checkpoint": None}, self.STALE), {"SLURM_CHECKPOINT": "default"})

    def test_off(self) -> None:
        self.assertEqual(self.environment({"checkpoint": "off", "checkpoint-dir": "/d"}, self.STALE), {})

    def test_not_asked(self) -> None:
        self.assertEqual(self.environment({}, self.STALE), {})

    def test_relative_directory_of_srun(self) -> None:
        """srun forwards the option as it was typed, and what the plugin made of it in the environment."""
        found = self.environment({"checkpoint": None, "checkpoint-dir": "d"}, {DIR: "/home/u/d"})
        self.assertEqual(found["SLURM_CHECKPOINT_DIR"], "/home/u/d")
        self.assertNotIn(DIR, found)

    def test_relative_directory_from_nowhere(self) -> None:
        call("prolog")
        with stepd({"checkpoint": None, "checkpoint-dir": "d"}) as step:
            self.assertFalse(step.result.accepted)
            self.assertIn("can't be made absolute", step.end())
            self.assertNotIn("SLURM_CHECKPOINT_DIR", step.result.environment)


class Symbols(Case):
    def test_exported_are_hooks_only(self) -> None:
        listing = subprocess.run(
            ["nm", "--dynamic", "--defined-only", "--format=posix", PLUGIN], capture_output=True, text=True, check=True
        ).stdout
        self.assertEqual(
            {line.split()[0] for line in listing.splitlines()},
            {
                *("plugin_name", "plugin_type", "plugin_version", "spank_plugin_version"),
                *("slurm_spank_init", "slurm_spank_init_post_opt", "slurm_spank_exit"),
                *("slurm_spank_task_init", "slurm_spank_task_exit"),
                *("slurm_spank_job_prolog", "slurm_spank_job_epilog"),
                *(("slurm_spank_init_failure_mode",) if HAS_JOB_FAILURE else ()),
            },
        )

    @unittest.skipUnless(HAS_JOB_FAILURE, "Slurm has it since 26.05")
    def test_a_job_fails_and_its_node_stays(self) -> None:
        argv = ["gdb", "--batch", "--ex", "output slurm_spank_init_failure_mode", str(PLUGIN)]
        self.assertEqual(subprocess.run(argv, capture_output=True, text=True, check=True).stdout, "3012")
