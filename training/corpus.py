"""Collects the documentation that ships with CPython, as named entries.

Sources: the language reference in ``pydoc_data.topics``; the docstrings of the
standard library, read with ``ast`` so that no library module runs; docstrings
of the modules written in C, which have no source to read and so are imported.
Test suites and vendored parts are left out, and so are comments: they speak to
the maintainers of a piece of code and read badly without it.

Invariant: entries come in one order on every machine with the same CPython,
and no two entries share a text.
"""

import ast
import importlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data import topics
from types import ModuleType
from typing import Literal

from training.prose import clean, is_sentence, plain

Kind = Literal["module", "class", "function", "topic", "term"]

_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "lib2to3", "turtledemo", "ensurepip", "__phello__"}
_PUBLIC_NAMES = {
    "posixpath": "os.path",
    "genericpath": "os.path",
    "posix": "os",
    "_collections_abc": "collections.abc",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "_collections": "collections",
    "_functools": "functools",
    "_operator": "operator",
    "_thread": "threading",
    "_struct": "struct",
    "_random": "random",
    "_socket": "socket",
    "_csv": "csv",
    "_io": "io",
}
_C_MODULES = [
    "builtins", "sys", "itertools", "math", "cmath", "time", "gc", "atexit", "marshal", "array", "zlib", "select",
    "fcntl", "mmap", "unicodedata", "binascii", "posix", "_collections", "_functools", "_operator", "_thread",
    "_struct", "_random", "_socket", "_csv", "_io",
]  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One documented thing: its dotted name or title, what it is, and its cleaned text."""

    name: str
    kind: Kind
    text: str


def collect() -> list[Entry]:
    """Every entry with readable text, first occurrence of each text only."""
    found: dict[str, Entry] = {}
    for entry in (*_topics(), *_library(), *_c_modules()):
        if is_sentence(entry.text):
            found.setdefault(entry.text, entry)
    return list(found.values())


def _topics() -> Iterator[Entry]:
    for key in sorted(topics.topics):
        raw = topics.topics[key]
        yield from _sections(raw)
        yield from _terms(raw)
        yield from _described(raw)


def _sections(raw: str) -> Iterator[Entry]:
    """Splits a topic at its underlined headings."""
    parts = re.split(r"^(\S.*)\n[*=~-]{3,}\n", raw, flags=re.M)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        yield Entry(plain(title).replace('"', ""), "topic", clean(body))


def _terms(raw: str) -> Iterator[Entry]:
    """Paragraphs that introduce an emphasised term near their beginning."""
    for block in re.split(r"\n\s*\n", raw):
        beginning = block[:160].replace("\n", " ")
        term = re.search(r"(?<!\*)\*([a-z][a-z -]{3,30})\*(?!\*)", beginning)
        text = clean(block)
        if term and not block.startswith(" ") and len(text) > 80:
            yield Entry(" ".join(term.group(1).split()), "term", text)


def _described(raw: str) -> Iterator[Entry]:
    """Signatures at the margin followed by an indented description."""
    for match in re.finditer(r"^([a-zA-Z_]\w*(?:\.\w+)+)\(.*\)\n\n((?:   .*\n|\n)+)", raw, flags=re.M):
        yield Entry(match.group(1), "function", clean(match.group(2)))


def _library() -> Iterator[Entry]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _LEFT_OUT.isdisjoint(relative.parts):
            source = path.read_bytes().decode("utf-8", errors="replace")
            yield from _documented(ast.parse(source), _module_name(relative))


def _module_name(relative: Path) -> str:
    parts = [part for part in relative.with_suffix("").parts if part != "__init__"]
    name = ".".join(parts)
    return _PUBLIC_NAMES.get(name, name)


def _documented(node: ast.Module | ast.ClassDef, name: str) -> Iterator[Entry]:
    kind: Kind = "module" if isinstance(node, ast.Module) else "class"
    yield Entry(name, kind, clean(ast.get_docstring(node) or ""))
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, f"{name}.{child.name}")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Entry(f"{name}.{child.name}", "function", clean(ast.get_docstring(child) or ""))


def _c_modules() -> Iterator[Entry]:
    for name in _C_MODULES:
        module = importlib.import_module(name)
        prefix = "" if module is sys.modules["builtins"] else _PUBLIC_NAMES.get(name, name) + "."
        yield Entry(_PUBLIC_NAMES.get(name, name), "module", clean(inspect.getdoc(module) or ""))
        yield from _members(module, prefix)


def _members(owner: ModuleType | type, prefix: str) -> Iterator[Entry]:
    for name, member in sorted(vars(owner).items(), key=lambda item: item[0]):
        doc = getattr(member, "__doc__", None)
        if not isinstance(doc, str) or not (inspect.isroutine(member) or inspect.isclass(member)):
            continue
        yield Entry(prefix + name, "class" if inspect.isclass(member) else "function", clean(doc))
        if inspect.isclass(member) and isinstance(owner, ModuleType) and member is not type:
            yield from _members(member, f"{prefix}{name}.")
