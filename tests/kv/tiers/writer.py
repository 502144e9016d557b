"""Puts blocks into a disk tier until killed: `python -m tests.kv.tiers.writer FOLDER FIRST`. Says what it has put."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from tests.kv.tiers.sealed import sealed
from tokenworks.kv.tiers.disk import DiskTier

tier = DiskTier(Path(sys.argv[1]), 1 << 30, 0.02)
print("ready", flush=True)
for number in itertools.count(int(sys.argv[2])):
    name, block = sealed(number, 1 << 20)
    tier.put(name, block)
    print(name.hex(), flush=True)
