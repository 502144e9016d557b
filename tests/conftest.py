"""What every test shares: threads that sleep while they wait, so that the suite is quick on a busy machine too, and a
ledger and a cache of its own, so that no test writes into anybody's home folder."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

from tokenworks.worker.environment import prepare_environment

prepare_environment()

_state = tempfile.mkdtemp(prefix="tokenworks-tests-")
os.environ["TOKENWORKS_LEDGER_PATH"] = _state  # before any test, and for every process that one starts
os.environ["XDG_CACHE_HOME"] = f"{_state}/cache"
atexit.register(shutil.rmtree, _state, ignore_errors=True)
