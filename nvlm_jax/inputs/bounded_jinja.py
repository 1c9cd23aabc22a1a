"""Jinja in a sandbox that ends: steps, texts, lists and numbers of a template are bounded.

Jinja's own sandbox keeps a template from Python's objects. It does not keep one `{% for a in range(99999) %}` within
another from running for days, nor `{% set x = x ~ x %}` from taking all memory. Here every round of a loop, every call
and every WORTH items that a filter is given is a step, and what makes a text or list longer is looked at before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from jinja2 import TemplateRuntimeError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment

STEPS = 200_000  # of a rendering; a template takes some ten for a message
WORTH = 5  # items, or characters, that cost a filter about as much as a round of a loop
LENGTH = 1 << 20  # characters of a text, items of a list, characters of what is written
BITS = 256  # of a whole number
SOURCE = 1 << 20  # characters of a template; those of large models have 10,000
# They pad or repeat by a number that stands in a text, or take the sizes of what they make from nowhere else.
REFUSED_FILTERS = ("center", "wordwrap", "urlize", "xmlattr", "batch", "slice", "random", "pprint")
REFUSED_METHODS = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs", "translate"))
# Of a format: a width of four digits, or one that is given apart.
_WIDE = re.compile(r"\d{4}|\*|\{[^}]*\{")


class TooMuch(TemplateRuntimeError):
    """A template that takes more than the bounds."""


class Bounded(ImmutableSandboxedEnvironment):
    """An environment for one rendering: its steps are counted over its life."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.code_generator_class = _CountingCode
        self.steps = 0
        self.globals.pop("lipsum", None)
        for name in REFUSED_FILTERS:
            self.filters.pop(name, None)
        self.filters |= {"replace": _replace, "join": _join, "indent": _indent, "format": _format}
        self.policies["json.dumps_function"] = _dumps
        self._weights: dict[int, tuple[Any, int]] = {}  # of lists and dicts by identity; kept, so that it stays theirs

    def concat(self, parts: Iterable[str]) -> str:  # what Jinja joins the pieces of a template by
        """The pieces as one text."""
        kept, length = [], 0
        for part in parts:
            length += len(part)
            _check(length)
            kept.append(part)
        return "".join(kept)

    def weighed(self, value: Any) -> Any:
        """A list or dict, which counts what is in it as often as it is in it: as text it is as long."""
        self._weigh(value)
        return value

    def _weigh(self, value: Any) -> int:
        if not isinstance(value, list | tuple | dict):
            return 1 + _length(value)
        if id(value) not in self._weights:
            inner = value.values() if isinstance(value, dict) else value
            weight = 1 + sum(map(self._weigh, inner))
            _check(weight)
            self._weights[id(value)] = value, weight
        return self._weights[id(value)][1]

    def tilde(self, *parts: Any) -> str:
        """`a ~ b`."""
        return self.concat(map(str, parts))

    def counted(self, values: Iterable[Any]) -> Counted:
        """What a loop goes through."""
        return Counted(values, self.step)

    def charged(self, value: Any) -> Any:
        """What a filter is given."""
        self.step(1 + (len(value) // WORTH if isinstance(value, Sized) else 0))
        return value

    def step(self, count: int = 1) -> None:
        """Count. Raises TooMuch after the last."""
        self.steps += count
        if self.steps > STEPS:
            raise TooMuch(f"it takes more than {STEPS:,} steps")

    def call(self, context: Any, function: Any, *arguments: Any, **named: Any) -> Any:  # type: ignore[override]
        """Every call in a template."""
        self.step()
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str):
            if name in REFUSED_METHODS:
                raise TooMuch(f"it calls {name} of a text")
            if name == "replace" and len(arguments) >= 2:
                return _replace(owner, *arguments)
            if name == "join" and len(arguments) == 1:
                return _join(arguments[0], owner)
        made = super().call(context, function, *arguments, **named)
        _check(_length(made))
        return self.weighed(made)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` and `str.format_map`, as Jinja's sandbox looks them up."""
        if (wrapped := super().wrap_str_format(value)) is not None:
            _check_format(value.__self__)
        return wrapped

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Every `+`, `*`, `**` and `%` in a template."""
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        if operator == "*":
            _check_product(left, right)
        if operator == "**":
            exponent = right if isinstance(right, int) else 0
            _check_bits(abs(exponent) * (left.bit_length() if isinstance(left, int) else 1))
        if operator == "+":
            _check(_length(left) + _length(right))
        return self.weighed(super().call_binop(context, operator, left, right))


class Counted:
    """A list, or whatever a loop goes through, that counts the rounds."""

    def __init__(self, values: Iterable[Any], step: Callable[[], None]):
        self._values, self._step = values, step

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            self._step()
            yield value

    def __len__(self) -> int:
        return len(self._values)  # type: ignore[arg-type] - TypeError, as of the values themselves


class _CountingCode(CodeGenerator):
    """Loops and `~` go through the environment."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        node.iter = _call("counted", [node.iter], node)
        super().visit_For(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.visit(_call("tilde", node.nodes, node), frame)

    def visit_Filter(self, node: nodes.Filter, frame: Frame) -> None:
        if node.node is not None:  # else a block's, whose text was joined
            node.node = _call("charged", [node.node], node)
        super().visit_Filter(node, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._weighed(super().visit_List, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._weighed(super().visit_Tuple, node, frame)
        else:  # the names of `for a, b in`
            super().visit_Tuple(node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._weighed(super().visit_Dict, node, frame)

    def _weighed(self, visit: Callable[..., None], node: nodes.Node, frame: Frame) -> None:
        self.write("environment.weighed(")
        visit(node, frame)
        self.write(")")


def _call(name: str, arguments: list[nodes.Expr], node: nodes.Node) -> nodes.Call:
    call = nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)
    return call.set_lineno(node.lineno).set_environment(node.environment)


def _check_format(text: str) -> None:
    if _WIDE.search(text):
        raise TooMuch("it formats with a width of four digits, or one that stands apart")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def _check(length: int) -> None:
    if length > LENGTH:
        raise TooMuch(f"it makes a text or list of more than {LENGTH:,}")


def _check_bits(bits: int) -> None:
    if bits > BITS:
        raise TooMuch(f"it makes a number of more than {BITS} bits")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    for value, times in ((left, right), (right, left)):
        if isinstance(value, Sized) and isinstance(times, int):
            _check(len(value) * max(times, 0))


def _replace(text: Any, old: Any, new: Any, count: Any = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    count = -1 if count is None else int(count)
    times = text.count(old)
    _check(len(text) + len(new) * (times if count < 0 else min(times, count)))
    return text.replace(old, new, count)


def _join(values: Iterable[Any], between: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        raise TooMuch("it joins by an attribute; map(attribute=...) would be right")
    parts, length = [], 0
    for value in values:
        parts.append(str(value))
        length += len(parts[-1]) + len(str(between))
        _check(length)
    return str(between).join(parts)


def _format(value: Any, *arguments: Any, **named: Any) -> str:
    _check_format(str(value))
    return FILTERS["format"](value, *arguments, **named)


def _indent(text: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    text = str(text)
    each = width if isinstance(width, int) else len(str(width))
    _check(len(text) + each * (1 + text.count("\n")))
    return FILTERS["indent"](text, width, first, blank)


def _dumps(value: Any, indent: Any = None, **options: Any) -> str:
    if isinstance(indent, int) and indent > 16:
        raise TooMuch(f"it indents JSON by {indent}")
    return json.dumps(value, indent=indent, **options)
