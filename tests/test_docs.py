"""What README.md and docs/ name exists: paths, `make` targets, commands and flags. Generated pages are up to date."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from tokenworks.cli.main import main
from tokenworks.cli.reference import PAGES
from tokenworks.contract.setting import ENVIRONMENT_PREFIX, NOT_SETTINGS, all_settings

ROOT = Path(__file__).parent.parent
PAGES_TO_CHECK = [page for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md"] if page.exists()]
PAGES_TO_CHECK += sorted((ROOT / "docs").rglob("*.md"))
OUR_FOLDERS = ("src", "tests", "docs", "benchmarks", "examples", "deploy", "training", ".ci")
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
each_page = pytest.mark.parametrize("page", PAGES_TO_CHECK, ids=lambda page: str(page.relative_to(ROOT)))


def code_in(page: Path) -> str:
    """Everything that the page sets as code, one piece a line."""
    return "\n".join(piece.strip("`") for piece in CODE.findall(page.read_text(encoding="utf-8")))


def our_flags() -> set[str]:
    found = {"--help", "--version"}
    groups: list[click.Group] = [main]
    while groups:
        group = groups.pop()
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                groups.append(command)
            found |= {flag for option in command.params for flag in [*option.opts, *option.secondary_opts]}
    return found


@each_page
def test_paths_in_the_text_exist(page: Path) -> None:
    named = re.findall(rf"(?<![\w/.-])((?:{'|'.join(map(re.escape, OUR_FOLDERS))})/[\w./*-]+)", code_in(page))
    missing = [path for path in named if not list(ROOT.glob(path.rstrip("/.")))]
    assert not missing


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", code_in(page))) <= targets


@each_page
def test_commands_and_flags_exist(page: Path) -> None:
    lines = [line for line in code_in(page).splitlines() if re.search(r"\btokenworks [a-z]", line)]
    commands = {match[1] for line in lines if (match := re.search(r"\btokenworks ([a-z]+)\b", line))}
    assert commands <= set(main.list_commands(click.Context(main)))
    flags = {flag for line in lines for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", line.partition("tokenworks ")[2])}
    assert flags <= our_flags()


@each_page
def test_environment_names_exist(page: Path) -> None:
    named = set(re.findall(rf"\b{ENVIRONMENT_PREFIX}[A-Z0-9_]+", page.read_text(encoding="utf-8")))
    assert named <= {setting.environment for setting in all_settings()} | NOT_SETTINGS


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_up_to_date(name: str) -> None:
    page = ROOT / "docs" / "reference" / name
    assert page.read_text(encoding="utf-8") == PAGES[name](), "run `make reference`"
