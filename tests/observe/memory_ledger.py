"""A ledger in memory that computes every answer from the frames themselves, the slow and obvious way: an oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from msgspec import structs

from tokenworks.contract.config import CostSettings, ObjectiveSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Frame, Gap, Incident, Record, StoreSample, WorkerSample, WorkerUse
from tokenworks.observe.cell import Cell, cell_of, merged
from tokenworks.observe.ledger import FAILED, OK, Ended, Span, StoreStretch, Window, WorkerStretch
from tokenworks.observe.tables.cost import costs_of


class MemoryLedger:
    """What a journal with these frames comes to; `frames` and `spans` may be added to at any time."""

    def __init__(
        self,
        frames: Iterable[Frame] = (),
        *,
        cost: CostSettings | None = None,
        objectives: ObjectiveSettings | None = None,
        spans: Iterable[Span] = (),
    ) -> None:
        self.frames = list(frames)
        self.told = list(spans)
        self.noted: list[tuple[int, CostSettings]] = []  # prices, and since when
        self._cost = cost or CostSettings()
        self._objectives = objectives or ObjectiveSettings()
        self._cells: dict[str, Cell] = {}

    def cells(self, window: Window, by: str | None = None, where: Mapping[str, str] | None = None) -> dict[str, Cell]:
        groups: dict[str, list[Cell]] = {}
        for ended in self._ended(window, where):
            key = "" if by is None else value_of(ended.record, by)
            groups.setdefault(key, []).append(self._cell(ended))
        return {key: merged(cells) for key, cells in groups.items()}

    def tags(self, window: Window) -> list[str]:
        return sorted({key for ended in self._ended(window, None) for key in ended.record.tags})

    def series(self, window: Window, step_ns: int, where: Mapping[str, str] | None = None) -> list[tuple[int, Cell]]:
        found = []
        for start_ns in range(window.start_ns - window.start_ns % step_ns, window.end_ns, step_ns):
            step = Window(max(start_ns, window.start_ns), min(start_ns + step_ns, window.end_ns))
            found.append((start_ns, self.cells(step, None, where).get("", Cell())))
        return found

    def records(
        self,
        window: Window,
        where: Mapping[str, str] | None = None,
        limit: int = 1000,
        *,
        slowest: bool = False,
        outcome: str = "",
    ) -> Iterator[Ended]:
        def order(ended: Ended) -> int:
            return ended.record.e2e_ns if slowest else end_of(ended.record)

        wanted = [each for each in self._ended(window, where) if is_wanted(each.record.outcome, outcome)]
        yield from sorted(wanted, key=order, reverse=True)[:limit]

    def outcomes(self, window: Window) -> dict[str, int]:
        return dict(Counter(ended.record.outcome for ended in self._ended(window, None)))

    def record(self, request_id: str) -> Ended | None:
        records = [frame for frame in self.frames if isinstance(frame, Record)]
        wanted = [record for record in records if request_id in (record.id, record.trace_id)]
        return Ended(wanted[0], costs_of(wanted[0], self._cost)) if wanted else None

    def trace(self, trace_id: str) -> list[Ended]:
        records = [frame for frame in self.frames if isinstance(frame, Record) and frame.trace_id == trace_id]
        return [Ended(each, costs_of(each, self._cost)) for each in sorted(records, key=lambda each: each.started_ns)]

    def workers(self, window: Window) -> list[WorkerStretch]:
        samples = [frame for frame in self.frames if isinstance(frame, WorkerSample)]
        samples.sort(key=lambda sample: (sample.worker, sample.use.started_ns, sample.at_ns))
        lives = groupby(samples, key=lambda sample: (sample.worker, sample.use.started_ns))
        stretches = [_stretch(list(life), window) for _, life in lives]
        return [stretch for stretch in stretches if stretch is not None]

    def worker_series(self, window: Window, step_ns: int) -> list[tuple[int, list[WorkerStretch]]]:
        starts = range(window.start_ns - window.start_ns % step_ns, window.end_ns, step_ns)
        steps = [Window(max(start, window.start_ns), min(start + step_ns, window.end_ns)) for start in starts]
        return [(start, self.workers(step)) for start, step in zip(starts, steps, strict=True)]

    def prices(self, window: Window) -> list[tuple[int, CostSettings]]:
        before = [noted for noted in self.noted if noted[0] <= window.start_ns][-1:]
        return before + [noted for noted in self.noted if window.start_ns < noted[0] < window.end_ns]

    def stores(self, window: Window) -> list[StoreStretch]:
        samples = [frame for frame in self.frames if isinstance(frame, StoreSample)]
        samples.sort(key=lambda sample: (sample.store, sample.at_ns))
        found = [_store_stretch(list(life), window) for _, life in groupby(samples, key=lambda sample: sample.store)]
        return [stretch for stretch in found if stretch is not None]

    def incidents(self, window: Window) -> list[Incident]:
        found = [f for f in self.frames if isinstance(f, Incident) and window.start_ns <= f.at_ns < window.end_ns]
        return sorted(found, key=lambda incident: incident.at_ns)

    def gaps(self, window: Window) -> list[Gap]:
        gaps = [frame for frame in self.frames if isinstance(frame, Gap)]
        return [gap for gap in gaps if gap.from_ns < window.end_ns and gap.until_ns >= window.start_ns]

    def spans(self, trace_id: str) -> list[Span]:
        return [span for span in self.told if span.trace_id == trace_id]

    def spans_of(self, trace_ids: Sequence[str]) -> dict[str, list[Span]]:
        return {trace_id: found for trace_id in trace_ids if (found := self.spans(trace_id))}

    def extent(self) -> Window | None:
        ends = [end_of(frame) for frame in self.frames if isinstance(frame, Record)]
        return Window(min(ends), max(ends) + 1) if ends else None

    def _cell(self, ended: Ended) -> Cell:
        if ended.record.id not in self._cells:
            self._cells[ended.record.id] = cell_of(ended.record, ended.costs, self._objectives)
        return self._cells[ended.record.id]

    def close(self) -> None:
        """Nothing to let go of."""

    def _ended(self, window: Window, where: Mapping[str, str] | None) -> Iterator[Ended]:
        for frame in self.frames:
            if isinstance(frame, Record) and window.start_ns <= end_of(frame) < window.end_ns:
                values = {name: value_of(frame, name) for name in where or {}}
                if values == dict(where or {}):
                    yield Ended(frame, costs_of(frame, self._cost))


def is_wanted(outcome: str, wanted: str) -> bool:
    """Whether a record that ended so is among those asked for."""
    return wanted in ("", outcome) or (wanted == FAILED and outcome != OK)


def end_of(record: Record) -> int:
    """When it ended, since 1970."""
    return record.started_ns + record.e2e_ns


def value_of(record: Record, dimension: str) -> str:
    """What a record is counted under."""
    if dimension.startswith("tag:"):
        return record.tags.get(dimension.removeprefix("tag:"), "")
    if dimension == "worker":
        return max(record.legs, key=lambda leg: leg.start_ns + leg.span_ns).worker if record.legs else ""
    return str(getattr(record, dimension))


def _stretch(life: list[WorkerSample], window: Window) -> WorkerStretch | None:
    """What the life had come to at the window's end, less what it had at its start."""
    start, end = (_had(life, at_ns) for at_ns in window)
    inside = [sample for sample in life if window.start_ns <= sample.at_ns < window.end_ns]
    if end["wall_ns"] <= start["wall_ns"] and not (inside and not end["wall_ns"]):
        return None
    behind = [sample for sample in life if sample.at_ns >= window.end_ns][:1]
    told = inside or behind
    last = (behind or inside)[0 if behind else -1]
    works = {work: spent - start["step_ns"].get(work, 0) for work, spent in end["step_ns"].items()}
    risen = {name: end[name] - start[name] for name in _RISING}
    started_ns, rss_bytes, energy_j = last.use.started_ns, last.use.rss_bytes, last.use.energy_j
    own = WorkerUse(started_ns=started_ns, rss_bytes=rss_bytes, step_ns=works, **{n: risen[n] for n in _OF_USE})
    before = WorkerUse(started_ns, step_ns=start["step_ns"], **{name: start[name] for name in _OF_USE})
    return WorkerStretch(
        worker=last.worker,
        model=last.model,
        version=last.version,
        device=last.device,
        from_ns=max(window.start_ns, life[0].at_ns - life[0].use.wall_ns),
        until_ns=min(window.end_ns, life[-1].at_ns),
        use=structs.replace(own, energy_j=None if energy_j is None else risen["energy_j"]),
        price_per_hour=last.price_per_hour,
        watts=last.watts,
        peak_flops=last.peak_flops,
        peak_bytes_per_s=last.peak_bytes_per_s,
        running=sum(sample.running for sample in told) / len(told),
        waiting=sum(sample.waiting for sample in told) / len(told),
        used_blocks_share=sum(1 - s.free_blocks / max(s.total_blocks, 1) for s in told) / len(told),
        preemptions=risen["preemptions"],
        evictions=risen["evictions"],
        before=structs.replace(before, energy_j=None if energy_j is None else start["energy_j"]),
    )


_OF_USE = ("wall_ns", "between_ns", "idle_ns", "flops", "read_bytes", "cpu_s", "disk_read_bytes", "disk_write_bytes")
_RISING = (*_OF_USE, "energy_j", "preemptions", "evictions")


def _had(life: list[WorkerSample], at_ns: int) -> dict[str, Any]:
    """What a life had come to: between two samples evenly, but no longer than it lived."""
    nothing = {"at_ns": life[0].at_ns - life[0].use.wall_ns, "step_ns": {}, **dict.fromkeys(_RISING, 0)}
    told = [nothing, *map(_counters, life)]
    if at_ns >= told[-1]["at_ns"]:
        return told[-1]
    old, new = next((a, b) for a, b in pairwise(told) if at_ns <= b["at_ns"])
    length = min(new["at_ns"] - old["at_ns"], new["wall_ns"] - old["wall_ns"])
    passed = min(max(0, at_ns - old["at_ns"]), length)
    if passed in (0, length):
        return new if passed else old
    had = {name: _part(old[name], new[name], passed, length) for name in _RISING}
    works = {work: _part(old["step_ns"].get(work, 0), new["step_ns"][work], passed, length) for work in new["step_ns"]}
    return {**had, "step_ns": works, "wall_ns": sum(works.values()) + had["between_ns"] + had["idle_ns"]}


def _counters(sample: WorkerSample) -> dict[str, Any]:
    own = {"at_ns": sample.at_ns, "preemptions": sample.preemptions, "evictions": sample.evictions}
    return own | structs.asdict(sample.use) | {"energy_j": sample.use.energy_j or 0.0}


def _part(old: float, new: float, passed: int, length: int) -> float:
    if isinstance(new, int) and isinstance(old, int):
        return old + (new - old) * passed // length
    return old + (new - old) * (passed / length)


def _speeds(samples: list[StoreSample]) -> dict[Tier, float]:
    """The lower median of each tier's."""
    tiers = {tier for sample in samples for tier in sample.read_bytes_per_s}
    told = {tier: sorted(s.read_bytes_per_s[tier] for s in samples if tier in s.read_bytes_per_s) for tier in tiers}
    return {tier: speeds[(len(speeds) - 1) // 2] for tier, speeds in told.items()}


def _store_stretch(samples: list[StoreSample], window: Window) -> StoreStretch | None:
    """What it held from one sample to the next, and what it counted between them, as far as that is in the window."""
    inside = [sample for sample in samples if window.start_ns <= sample.at_ns < window.end_ns]
    before = [sample for sample in samples if sample.at_ns < window.start_ns]
    behind = [sample for sample in samples if sample.at_ns >= window.end_ns]
    if not inside and not (before and behind):
        return None
    last = (inside or before)[-1]
    byte_s: dict[Tier, float] = {}
    rises: dict[str, dict[Any, int]] = {"hits": {}, "evictions": {}, "faults": {}, "misses": {}}
    for sample, following in pairwise(samples):
        from_ns, until_ns = max(sample.at_ns, window.start_ns), min(following.at_ns, window.end_ns)
        if from_ns < until_ns:
            for tier, used in sample.used_bytes.items():
                byte_s[tier] = byte_s.get(tier, 0.0) + used * (until_ns - from_ns) / 1e9
            for name, total in rises.items():
                old, new = _table(getattr(sample, name)), _table(getattr(following, name))
                for key, count in new.items():
                    rise, length = count - old.get(key, 0), following.at_ns - sample.at_ns
                    ends = [rise * (at_ns - sample.at_ns) // length for at_ns in (from_ns, until_ns)]
                    total[key] = total.get(key, 0) + ends[1] - ends[0]
    return StoreStretch(
        store=last.store,
        byte_s=byte_s,
        used_bytes=dict(last.used_bytes),
        limit_bytes=dict(last.limit_bytes),
        hits=rises["hits"],
        evictions=rises["evictions"],
        faults=rises["faults"],
        misses=rises["misses"].get("", 0),
        read_bytes_per_s=_speeds(inside or behind[:1]),
    )


def _table(counted: int | dict[Any, int]) -> dict[Any, int]:
    return {"": counted} if isinstance(counted, int) else counted
