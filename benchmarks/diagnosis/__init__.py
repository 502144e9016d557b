"""Faults provoked for real in a running system, and whether `tokenworks diagnose` finds them.

`python -m benchmarks.diagnosis` runs all of them and prints found or not, then runs that nothing is wrong with, in
which every rule must stay silent. `tests/e2e/test_diagnosis.py` runs those that take seconds.
"""
