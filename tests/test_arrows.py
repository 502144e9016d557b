"""Who may import whom. Arrows run one way, and what decides, plans or talks HTTP starts without the engine's libraries.

The table is the architecture; a package that is not in it may not exist. Imports are found in the source by `ast`, also
those inside functions (a lazy import is an import) and those under `TYPE_CHECKING`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "tokenworks"
PAGE = Path(__file__).parent.parent / "docs" / "design" / "001-parts-and-arrows.md"
ALLOWED: dict[str, set[str]] = {
    "contract": set(),
    "policy": {"contract"},
    "text": {"contract"},
    "plan": {"contract", "policy"},
    "bench": {"contract", "plan"},
    "kv": {"contract", "policy"},
    "engine": {"contract", "policy"},
    "worker": {"contract", "policy", "engine", "kv", "text"},
    "observe": {"contract", "policy"},
    "gateway": {"contract", "policy", "text", "observe"},
    "fleet": {"contract"},
    "cli": {"contract", "policy", "text", "plan", "bench", "engine", "worker", "gateway", "fleet", "kv", "observe"},
    "embedded": set(),  # a checkpoint's files, no code
}
GATEWAY_ROOMS: dict[str, set[str]] = {
    "pool": set(),
    "keys": set(),
    "records": {"keys", "pool"},
    "metrics": {"pool"},
    "http": {"keys", "metrics", "pool", "records"},
}
WITHOUT_ENGINE = ("contract", "policy", "text", "plan", "bench", "gateway", "fleet", "kv", "observe", "cli")
ENGINE_LIBRARIES = ("torch", "numba", "transformers")

IMPORT_ALL = """
import importlib, pkgutil, sys
packages, blocked = (argument.split(",") for argument in sys.argv[1:])

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is imported where it must not be")

sys.meta_path.insert(0, Refuse())
for package in packages:
    if importlib.util.find_spec(package) is None:
        continue
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        importlib.import_module(module.name)
"""


def packages() -> list[str]:
    folders = [folder for folder in SOURCE.iterdir() if folder.is_dir() and any(folder.rglob("*.py"))]
    return sorted(folder.name for folder in folders)


def imported_packages(package: str) -> Iterator[tuple[Path, str]]:
    """Each of our packages that a file of `package` imports."""
    for file in sorted((SOURCE / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for name in _names(node, file):
                parts = name.split(".")
                if parts[0] == "tokenworks" and len(parts) > 1:
                    yield file, parts[1]


def _names(node: ast.AST, file: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0, f"{file}:{node.lineno}: write the import in full, from tokenworks on"
    if node.module == "tokenworks":
        return [f"tokenworks.{alias.name}" for alias in node.names if alias.name != "__version__"]
    return [node.module or ""]


def test_every_package_is_in_the_table() -> None:
    assert set(packages()) <= set(ALLOWED)


@pytest.mark.parametrize("room", sorted(GATEWAY_ROOMS))
def test_a_room_of_the_gateway_imports_only_what_the_table_allows(room: str) -> None:
    allowed = GATEWAY_ROOMS[room] | {room}
    for file in sorted((SOURCE / "gateway" / room).rglob("*.py")):
        names = [name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) for name in _names(node, file)]
        found = {name.split(".")[2] for name in names if name.startswith("tokenworks.gateway.")}
        assert found <= allowed, f"{file.relative_to(SOURCE)} imports {sorted(found - allowed)}"


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_the_table_allows(package: str) -> None:
    allowed = ALLOWED[package] | {package}
    wrong = [f"{file.relative_to(SOURCE)} imports {name}" for file, name in imported_packages(package)]
    wrong = [line for line in wrong if line.rpartition(" ")[2] not in allowed]
    assert not wrong


def test_the_page_about_the_parts_says_the_same() -> None:
    told: dict[str, set[str]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].strip("`") in ALLOWED:
            told[cells[0].strip("`")] = set(cells[1].split(", ")) - {"nothing of ours"}
    everything = set(ALLOWED) - {"cli", "embedded"}
    assert told.pop("cli") == {"all", "lazily"}
    assert ALLOWED["cli"] == everything
    assert told == {package: ALLOWED[package] for package in everything}


def test_the_table_has_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        following = {package for package, needs in ALLOWED.items() if needs <= done} - done
        assert following, f"a circle among {set(ALLOWED) - done}"
        done |= following


def test_all_but_engine_and_worker_import_without_the_engines_libraries() -> None:
    names = ",".join(f"tokenworks.{package}" for package in WITHOUT_ENGINE)
    command = [sys.executable, "-c", IMPORT_ALL, names, ",".join(ENGINE_LIBRARIES)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
