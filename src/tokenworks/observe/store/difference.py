"""A cell less another that is part of it: sums and the buckets of sketches are taken away exactly."""

from __future__ import annotations

import numpy as np

from tokenworks.observe.cell import Cell
from tokenworks.observe.sketch import BUCKET


def less(total: Cell, part: Cell) -> Cell:
    """What is left of `total` without `part`."""
    rest = Cell()
    for name in Cell.__struct_fields__:
        whole, taken = getattr(total, name), getattr(part, name)
        if name == "sketches":
            parts = {key: _without(raw, taken.get(key, b"")) for key, raw in whole.items()}
            rest.sketches = {key: left for key, left in parts.items() if left}
        elif isinstance(whole, dict):
            left = {key: value - taken.get(key, 0) for key, value in whole.items()}
            setattr(rest, name, {key: value for key, value in left.items() if value})
        else:
            setattr(rest, name, whole - taken)
    return rest


def _without(total: bytes, part: bytes) -> bytes:
    """Of two encoded sketches."""
    whole, taken = np.frombuffer(total, BUCKET), np.frombuffer(part, BUCKET)
    left = whole.copy()
    left["count"][np.searchsorted(whole["number"], taken["number"])] -= taken["count"]
    return left[left["count"] > 0].tobytes()
