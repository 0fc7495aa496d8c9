"""Benchmarks on live clusters: `python3 -m bench [NAME…]`."""
