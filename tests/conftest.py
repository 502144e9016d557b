"""What every test shares: threads that sleep while they wait, so that the suite is quick on a busy machine too, and a
ledger and a cache of its own, so that no test writes into anybody's home folder."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections import defaultdict
from itertools import chain, zip_longest
from pathlib import Path

import pytest

from tokenworks.worker.environment import prepare_environment

prepare_environment()

_state = tempfile.mkdtemp(prefix="tokenworks-tests-")
os.environ["TOKENWORKS_LEDGER_PATH"] = _state  # before any test, and for every process that one starts
os.environ["XDG_CACHE_HOME"] = f"{_state}/cache"
atexit.register(shutil.rmtree, _state, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the files: long ones first, so that none is left over at the end.

    Between two of them comes a short one: the long ones start whole systems, and wait for each other if all do it at
    once.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    files: defaultdict[Path, list[pytest.Item]] = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    is_long = {path: any(item.get_closest_marker("slow") for item in found) for path, found in files.items()}
    long, short = ([found for path, found in files.items() if is_long[path] is wanted] for wanted in (True, False))
    items[:] = chain.from_iterable(chain.from_iterable(zip_longest(long, short, fillvalue=[])))
