"""How checkpoints look in a terminal: what one is, and how far one has been written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from tokenworks.cli.inspection import Inspection
from tokenworks.engine.experts_config import ExpertsConfig
from tokenworks.engine.model_config import ModelConfig


def show_inspection(found: Inspection) -> None:
    """All that is known of a checkpoint."""
    Console(highlight=False).print(_table(found))


@contextmanager
def writing(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, to be told how much is done, and of how much."""
    columns = (TextColumn("writing {task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None, visible=False)  # until it is known to be possible
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def _table(found: Inspection) -> Table:
    table = Table(title=str(found.folder), show_header=False, title_justify="left")
    for name, value in _rows(found):
        table.add_row(name, "unknown" if value is None else value)
    return table


def _rows(found: Inspection) -> list[tuple[str, str | None]]:
    return [
        *(_shape_rows(found, found.config) if found.config else []),
        ("parameters", _parameters(found)),
        ("weights", None if found.weight_bytes is None else f"{found.weight_bytes:,} bytes"),
        ("stored as", ", ".join(found.dtypes) or None),
        ("tokenizer", "yes" if found.has_tokenizer else "missing"),
        ("chat template", "yes" if found.has_chat_template else "none: completions only"),
        ("can be served", "no" if found.problems else "yes"),
    ]


def _parameters(found: Inspection) -> str | None:
    if found.num_parameters is None:
        return None
    active = found.num_active_parameters
    return f"{found.num_parameters:,}" + (f", of which a token uses {active:,}" if active is not None else "")


def _expert_rows(experts: ExpertsConfig) -> list[tuple[str, str | None]]:
    layers = f"{sum(experts.is_sparse)} of {len(experts.is_sparse)} layers"
    return [("experts", f"{experts.num_experts}, {experts.num_per_token} a token, in {layers}")]


def _shape_rows(found: Inspection, shape: ModelConfig) -> list[tuple[str, str | None]]:
    kv = [f"{found.kv_bytes_per_token(dtype):,} bytes in {dtype}" for dtype in ("bfloat16", "float32", "int8")]
    return [
        ("architecture", shape.architecture),
        ("layers, hidden size", f"{shape.num_layers}, {shape.hidden_size}"),
        *(_expert_rows(shape.experts) if shape.experts else []),
        ("heads, KV heads, head size", f"{shape.num_heads}, {shape.num_kv_heads}, {shape.head_dim}"),
        ("window", f"{shape.max_context_tokens:,} tokens"),
        ("KV of one token", ", ".join(kv)),
    ]
