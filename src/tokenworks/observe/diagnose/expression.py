"""Conditions and estimates over named figures, as rules write them: `queue_share > 0.5 and requests >= 20`.

Evaluated by simpleeval, cut down to what figures need: numbers, names, + - * /, comparisons, `and`, `or`, min, max and
abs. There are no strings, attributes, indices, calls of anything else, and no power (whose results can be huge).

Invariant: what is not known is NaN, and NaN makes nothing true. So there is no `not`, `==` or `!=`: every comparison
with an unknown figure is false, and a rule can only fire on what was measured. A division by zero is unknown.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any, Final

from simpleeval import SimpleEval

from tokenworks.contract.errors import ConfigError

Lookup = Callable[[str], float]

MAX_CHARS: Final = 1000
MAX_NUMBER: Final = 1e18
_ALLOWED: Final = (
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.UnaryOp, ast.USub),
    *(ast.BoolOp, ast.And, ast.Or, ast.Compare, ast.Gt, ast.GtE, ast.Lt, ast.LtE),
    *(ast.Name, ast.Load, ast.Constant, ast.Call),
)


class Expression:
    """One expression, parsed and checked; raises ConfigError for what it may not hold."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARS:
            raise ConfigError(f"an expression has at most {MAX_CHARS} characters, this one has {len(text)}")
        self.text = text = " ".join(text.split())  # it may stand on several lines
        try:
            self._tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deeply
            raise ConfigError(f"`{text}` is no expression ({error})") from error
        nodes = list(ast.walk(self._tree))
        called = {id(node.func): node.func for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:
            self._check(node)
        self.names = frozenset(node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called)

    def value(self, lookup: Lookup) -> float:
        """The result, with every name looked up; a truth is 1 or 0."""

        def find(node: ast.Name) -> float:
            return lookup(node.id)

        evaluator = SimpleEval(operators=_OPERATORS, functions=_FUNCTIONS, names=find)
        return float(evaluator.eval(self.text, previously_parsed=self._tree))

    def filled(self, show: Callable[[str], str]) -> str:
        """The expression with what `show` says in place of each name: the arithmetic of an estimate."""
        names = [node for node in ast.walk(self._tree) if isinstance(node, ast.Name)]
        names.sort(key=lambda node: node.col_offset)
        parts, at = [], 0
        encoded = self.text.encode()  # offsets count bytes
        for node in names:
            if node.id in self.names:
                parts += [encoded[at : node.col_offset].decode(), show(node.id)]
                at = node.end_col_offset or at
        return "".join([*parts, encoded[at:].decode()])

    def _check(self, node: ast.AST) -> None:
        if not isinstance(node, _ALLOWED):
            raise ConfigError(
                f"`{self.text}`: {type(node).__name__} is not allowed; there are numbers, names, + - * / < <= > >=, "
                "and, or, min, max, abs"
            )
        if isinstance(node, ast.Constant) and not _is_number(node.value):
            raise ConfigError(f"`{self.text}`: {node.value!r} is not a number up to {MAX_NUMBER:g}")
        if isinstance(node, ast.Call) and (not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS):
            raise ConfigError(f"`{self.text}`: only min, max and abs can be called")
        if isinstance(node, ast.Call) and not node.args:
            raise ConfigError(f"`{self.text}`: give min, max and abs something in their parentheses")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= MAX_NUMBER


def _divide(dividend: float, divisor: float) -> float:
    return dividend / divisor if divisor else math.nan


def _smallest(*values: float) -> float:
    return math.nan if any(math.isnan(value) for value in values) else min(values)


def _largest(*values: float) -> float:
    return math.nan if any(math.isnan(value) for value in values) else max(values)


def _size(value: float, *more: float) -> float:
    return abs(value) if not more else math.nan


_FUNCTIONS: Final[dict[str, Callable[..., float]]] = {"min": _smallest, "max": _largest, "abs": _size}
_OPERATORS: Final[dict[type[ast.AST], Callable[..., Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _divide,
    ast.USub: operator.neg,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
}
