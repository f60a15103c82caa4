"""Measurements that can be repeated: timings beside a rival, and the fuzzer."""
