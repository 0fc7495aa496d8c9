"""A virtual machine with another kernel: `python3 -m tests.harness.vm --help`."""
