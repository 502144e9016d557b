"""What a request cost, from what was measured of it and the prices that were stated when it ran.

- **Device**: its share of the steps it was in, times the price of the worker's card. Memory for KV comes with the
  device, so what its KV held there costs nothing beside that.
- **Transfer**: bytes fetched from and published to the store, at `transfer_per_gb`.
- **Energy**: the card's watts over its device time, at `energy_per_kwh`; where that is 0 the card's price covers it.
  It is modelled: a device's meter cannot tell who of a step's sequences drew the power.
- **Saved**: what the tokens that were found instead of computed would have taken, by the card's own model.
- KV kept in the store costs by bytes and time, and how long a request's blocks will stay is not known when it ends, nor
  whose they are once others find them. It is a line of the bill (`bill`), not of a request.

Amounts are whole pico of the currency. Each one (a leg's work, energy, transfer) is computed exactly, in integers, and
rounded once, to the nearest; whatever sums amounts adds integers. Pure, and a few microseconds: gateways run it too.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import Final

from tokenworks.contract.config import CostSettings
from tokenworks.contract.record import PICO, Costs, Record, SequenceReport, Work

_NS_PER_HOUR: Final = 3600 * 10**9
_NJ_PER_KWH: Final = 3_600_000 * 10**9
_BYTES_PER_GB: Final = 10**9
_BYTE_S_PER_GB_HOUR: Final = 3600 * 10**9
NO_COSTS: Final = Costs()
"""Of every request to which no price applies."""


def costs_of(record: Record, cost: CostSettings) -> Costs:
    """What a request cost; nothing where no price was stated, or no worker told what it spent."""
    priced = [leg for leg in record.legs if leg.price_per_hour]
    if not (priced or cost.energy_per_kwh or cost.transfer_per_gb):
        return NO_COSTS
    device: dict[Work, int] = {}
    transfer = energy = saved = 0
    for leg in record.legs:
        if leg.price_per_hour and leg.saved_ns:
            saved += device_cost(leg.saved_ns, leg.price_per_hour)
        if leg.report is None:
            continue
        if leg.price_per_hour:
            for work, spent_ns in leg.report.device_ns.items():
                device[work] = device.get(work, 0) + device_cost(spent_ns, leg.price_per_hour)
        if cost.energy_per_kwh and leg.watts:
            energy += modelled_energy_cost(sum(leg.report.device_ns.values()), leg.watts, cost.energy_per_kwh)
        if cost.transfer_per_gb:
            transfer += _priced(_moved_bytes(leg.report), cost.transfer_per_gb, per=_BYTES_PER_GB)
    return Costs(device=device, transfer=transfer, energy=energy, saved=saved)


def device_cost(duration_ns: int, price_per_hour: float) -> int:
    """Pico of the currency for nanoseconds of a worker."""
    return _times(duration_ns, *_rate(_NS_PER_HOUR, price_per_hour))


def modelled_energy_cost(duration_ns: int, watts: float, price_per_kwh: float) -> int:
    """Pico of the currency for a worker that draws `watts` for nanoseconds; watts x nanoseconds are nanojoules."""
    return _times(duration_ns, *_rate(_NJ_PER_KWH, watts, price_per_kwh))


def energy_cost(joules: float, price_per_kwh: float) -> int:
    """Pico of the currency for measured energy."""
    return _priced(10**9, joules, price_per_kwh, per=_NJ_PER_KWH)


def residence_cost(byte_s: float, price_per_gb_hour: float) -> int:
    """Pico of the currency for bytes kept, times seconds."""
    return _priced(1, byte_s, price_per_gb_hour, per=_BYTE_S_PER_GB_HOUR)


def _moved_bytes(report: SequenceReport) -> int:
    return report.published_bytes + sum(report.fetched_bytes.values())


def _priced(amount: int, *factors: float, per: int) -> int:
    """PICO x amount x factors / per, to the nearest integer, halves up. A float is taken as the fraction that it is."""
    return _times(amount, *_fraction(per, *factors))


def _times(amount: int, numerator: int, denominator: int) -> int:
    """To the nearest integer, halves up."""
    return (2 * amount * numerator + denominator) // (2 * denominator)


def _fraction(per: int, *factors: float) -> tuple[int, int]:
    """PICO x factors / per, in lowest terms: exact, and short to multiply by."""
    numerator, denominator = PICO, per
    for factor in factors:
        above, below = factor.as_integer_ratio()
        numerator *= above
        denominator *= below
    common = gcd(numerator, denominator)
    return numerator // common, denominator // common


_rate: Final = lru_cache(maxsize=1024)(_fraction)
"""Of cards' prices and watts: there are few of them, and a gateway asks several times for each request."""
