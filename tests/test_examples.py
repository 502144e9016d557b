"""The files in examples/ are read, can be derived from, and are what the guide shows."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from tokenworks.contract.config import GatewaySettings, Settings
from tokenworks.contract.loader import load_settings
from tokenworks.fleet.derive import derive
from tokenworks.observe.diagnose.rules import load_rules, own_rules

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
each_example = pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
TOML = re.compile(r"```toml\n(.*?)```", re.DOTALL)
KINDS = {
    "one-machine": [("tokenworks", "both")],
    "prefill-decode": [("tokenworks", "prefill"), ("tokenworks", "decode")],
    "pytorch-openvino": [("tokenworks", "both"), ("openvino", "both")],
    "foreign-server": [("tokenworks", "both"), ("openai", "both")],
}


def derived(file: Path) -> Settings:
    """As `serve` derives them, but for the model, which is not here."""
    settings = load_settings(config=file, environment={})
    settings = msgspec.structs.replace(settings, model="", gateway=GatewaySettings(port=0))
    return derive(settings, Path("/run/x"), num_cores=4)


def test_there_are_examples_of_these_pools() -> None:
    assert {file.stem for file in EXAMPLES} == set(KINDS)


@each_example
def test_an_example_makes_the_workers_that_it_says(file: Path) -> None:
    settings = derived(file)
    assert [(group.runs, group.role) for group in settings.workers] == KINDS[file.stem]
    assert settings.kv.is_on == (file.stem != "foreign-server")
    assert load_settings(config=file, environment={}).model


@each_example
def test_the_guide_shows_the_example_as_it_is(file: Path) -> None:
    shown = TOML.findall((ROOT / "docs" / "guides" / "pools.md").read_text(encoding="utf-8"))
    assert file.read_text(encoding="utf-8") in shown


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_every_complete_file_in_the_docs_is_read(page: Path, tmp_path: Path) -> None:
    for text in TOML.findall(page.read_text(encoding="utf-8")):
        file = tmp_path / "tokenworks.toml"
        file.write_text(text, encoding="utf-8")
        if "[[rule]]" in text:
            assert len(load_rules([file]).rules) > len(own_rules().rules)
        else:
            load_settings(config=file, environment={})
