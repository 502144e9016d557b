"""`tokenworks model`: look at a checkpoint folder, or write one with random weights for measuring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from tokenworks.cli.group import CommandGroup
from tokenworks.contract.errors import CheckpointError

if TYPE_CHECKING:
    from tokenworks.cli.inspection import Inspection
    from tokenworks.engine.experts_config import ExpertsConfig
    from tokenworks.engine.model_config import ModelConfig


@click.group(cls=CommandGroup)
def model() -> None:
    """Look at checkpoints, or make one with random weights."""


@model.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def inspect(folder: Path) -> None:
    """Say what the checkpoint in FOLDER is and whether it can be served.

    Reads the JSON files and the headers of the safetensors files only. Exit code 3 if it cannot be served.

    \b
    Example:
      tokenworks model inspect ~/models/Qwen3-0.6B
    """
    from tokenworks.cli.inspection import inspect_checkpoint

    found = inspect_checkpoint(folder.resolve())
    Console(highlight=False).print(_table(found))
    if found.problems:
        raise CheckpointError("this checkpoint cannot be served:\n" + "\n".join(f"- {text}" for text in found.problems))


@model.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--like", required=True, metavar="SHAPE", help="The shape, such as qwen3-0.6b or llama-3.2-1b.")
@click.option("--seed", default=0, show_default=True, help="Seed of the weights: the same seed, the same bytes.")
def random(out: Path, like: str, seed: int) -> None:
    """Write a checkpoint of a real model's shape with random weights to the folder OUT.

    It is as fast and as large as the real one and writes nonsense: it is for measuring where no model can be fetched.

    \b
    Example:
      tokenworks model random /tmp/qwen3-0.6b --like qwen3-0.6b
      tokenworks serve /tmp/qwen3-0.6b
    """
    from tokenworks.engine.random_checkpoint import write_random_checkpoint

    columns = (TextColumn("writing {task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(like, total=None, visible=False)  # until it is known to be possible
        write_random_checkpoint(
            out, like, seed, lambda done, total: progress.update(task, completed=done, total=total, visible=True)
        )
    click.echo(f"wrote {out}; serve it with: tokenworks serve {out}")


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
