"""Steps of time: how long they may be, and which ones suit a window."""

from __future__ import annotations

from typing import Final

from tokenworks.contract.errors import InvalidRequest
from tokenworks.observe.ledger import Window
from tokenworks.observe.when import parse_duration

AUTO: Final = "auto"
MAX_STEPS: Final = 2000
MAX_SINGLES: Final = 1500
"""Requests that are read one by one for steps below a minute at most: half a second of processor time."""
STEPS_S: Final = tuple(
    unit_s * times
    for unit_s, most in ((1, 60), (60, 60), (3600, 24), (86400, 28))
    for times in range(1, most)
    if most % times == 0
)
_SECOND_NS: Final = 10**9
_MINUTE_NS: Final = 60 * _SECOND_NS


def handy_step_ns(window: Window, points: int, num_requests: int) -> int:
    """The smallest handy step that gives no more than `points`.

    Below a minute a ledger has to read every request, so that there such steps are for few of them; above, steps are
    whole minutes, hours or days, for which it has the sums.
    """
    least_s = max(window.seconds / points, 60 if num_requests > MAX_SINGLES else 1)
    return next((step_s for step_s in STEPS_S if step_s >= least_s), STEPS_S[-1]) * _SECOND_NS


def parse_step(text: str, window: Window) -> int:
    """Nanoseconds of "10s", "1m", "6h" or "1d"; raises InvalidRequest for what a ledger has no sums of."""
    step_ns = parse_duration(text, "every")
    unit_ns = _MINUTE_NS if step_ns > _MINUTE_NS else _SECOND_NS
    if not step_ns or step_ns % unit_ns:
        raise InvalidRequest(
            f"`every` cannot be {text!r}; give whole seconds up to a minute, or whole minutes, hours or days, such as "
            f"10s, 1m, 6h or 1d; or {AUTO}",
            param="every",
        )
    if window.end_ns - window.start_ns > MAX_STEPS * step_ns:
        raise InvalidRequest(
            f"every {text!r} would be more than {MAX_STEPS:,} rows; give longer steps or a shorter window",
            param="every",
        )
    return step_ns
