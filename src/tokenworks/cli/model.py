"""`tokenworks model`: look at a checkpoint folder, or write one with random weights for measuring."""

from __future__ import annotations

from pathlib import Path

import click

from tokenworks.cli.group import CommandGroup
from tokenworks.contract.errors import CheckpointError


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
    from tokenworks.cli.model_page import show_inspection

    found = inspect_checkpoint(folder.resolve())
    show_inspection(found)
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
    from tokenworks.cli.model_page import writing
    from tokenworks.engine.random_checkpoint import write_random_checkpoint

    with writing(like) as on_progress:
        write_random_checkpoint(out, like, seed, on_progress)
    click.echo(f"wrote {out}; serve it with: tokenworks serve {out}")
