"""Windows that are asked for and that the model does not have: a worker takes the model's and says so in its log."""

from __future__ import annotations

from pathlib import Path

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.worker_groups import groups_of
from tokenworks.engine.model_config import read_model_config
from tokenworks.fleet.derive import computes
from tokenworks.fleet.finding import Finding, Verdict
from tokenworks.fleet.launch import resolve_model


def check_window(settings: Settings) -> Finding | None:
    """Whether the model can have it; None where none is asked for, or the model cannot be read, which others tell."""
    wanted = max((group.engine.max_context_tokens for group in groups_of(settings) if computes(group)), default=0)
    if not wanted:
        return None
    try:
        window = read_model_config(Path(resolve_model(settings).model)).max_context_tokens
    except TokenworksError:
        return None
    if wanted <= window:
        return Finding("window", Verdict.OK, f"{wanted:,} tokens, of the model's {window:,}")
    found = f"max_context_tokens is {wanted:,}, and the model's window {window:,} tokens"
    return Finding(
        "window", Verdict.WARN, found, f"longer requests will be refused: set it to {window} or less, or to 0"
    )
