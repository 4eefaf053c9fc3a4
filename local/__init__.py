"""Processes and probes on this machine, for the tests, the benchmarks, the load test and the demo.

Nothing in here imports `bentos`.
"""
