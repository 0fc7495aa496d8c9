"""A virtual machine with another kernel: `python3 -m tests.machine --help`."""
