"""Python programs out of what a model answers to "complete this function"."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings

from nvlm_jax.evaluation import fences

_CUTS = 200  # lines taken off the end of an answer, at most, to find code
_STATEMENT = re.compile(r"(?:import|from|def|class|async|@)\b|@")
_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
_INDENT = "    "


def program(output: str, prompt: str, entry_point: str) -> str | None:
    """The definitions to test: the prompt completed by what the output holds of code; None where it is empty.

    Taken is the first block of code that defines the function with a body, with earlier blocks that only define; else
    a block that goes on where the prompt ends; else the same of the output as a whole, where words before and behind
    the code do not count. A whole function stands behind the prompt, whose own definition (a docstring alone) it
    replaces: so what the prompt imports and defines before it stays.
    """
    output = output.replace("\r\n", "\n").replace("\r", "\n")
    if not output.strip():
        return None
    blocks = fences.blocks(output)
    whole = _defining_block(blocks, entry_point) or (None if blocks else _defining_text(output, entry_point))
    if whole is not None:
        return _behind(prompt, whole)
    parts = [block.code for block in blocks if block.is_python] or [block.code for block in blocks] or [output]
    if not any(part.strip() for part in parts):
        return None
    return prompt + _continuation(prompt, parts) + "\n"


def defines(code: str, name: str) -> bool:
    """Whether a line of the code defines the name as a function or by an assignment."""
    name = re.escape(name)
    return re.search(rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{name}\b|^{name}[ \t]*=[^=]", code, re.MULTILINE) is not None


def _behind(prompt: str, code: str) -> str:
    """A program in which `code` follows the prompt; what has to come first in a file does."""
    future = "".join(line.rstrip("\n") + "\n" for line in _FUTURE.findall(code))
    code = _FUTURE.sub("", code).strip("\n")
    return f"{future}{prompt}\n{_INDENT}pass\n\n{code}\n"


# ---- whole functions


def _defining_block(blocks: list[fences.Block], name: str) -> str | None:
    places = [place for place, block in enumerate(blocks) if defines(block.code, name)]
    if not places:
        return None
    chosen = next((place for place in places if not _is_stub(blocks[place].code, name)), places[-1])
    helpers = [block.code for block in blocks[:chosen] if block.is_python and _only_defines(block.code)]
    return "\n\n".join([*helpers, _longest_program("", blocks[chosen].code) or blocks[chosen].code])


def _defining_text(text: str, name: str) -> str | None:
    """The code that defines the name in a text without fences."""
    if not defines(text, name):
        return None
    lines = text.split("\n")
    for start, line in enumerate(lines):
        if _STATEMENT.match(line):
            code = _longest_program("", "\n".join(lines[start:]))
            if code and defines(code, name):
                return code
    return text


def _only_defines(code: str) -> bool:
    tree = _parsed(code)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign)
    return tree is not None and all(isinstance(statement, kinds) for statement in tree.body)


def _is_stub(code: str, name: str) -> bool:
    """Whether the function has nothing but a docstring, `pass` or `...`: the question repeated."""
    tree = _parsed(code)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return all(
                isinstance(s, ast.Pass) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
                for s in node.body
            )
    return False


# ---- continuations


def _continuation(prompt: str, parts: list[str]) -> str:
    """The first part that goes on where the prompt ends, indented so that it does; else the first part as it is."""
    forms = [form for part in parts if part.strip() for form in _indented(part.rstrip())]
    for form in forms:
        if _compiles(prompt + form):
            return form
    return next((code for form in forms if (code := _longest_program(prompt, form))), forms[0])


def _indented(code: str) -> list[str]:
    """The code as it is, with the blanks that its first line may have lost, and moved right as a whole."""
    lines = code.split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    code = "\n".join(lines)
    if code[:1] not in " \t":
        return [textwrap.indent(code, _INDENT), _INDENT + code, code]
    return [code, code.expandtabs(len(_INDENT))] if "\t" in code else [code]


def _longest_program(prompt: str, code: str) -> str | None:
    """The code without what has to be cut off its end to make it Python; None where nothing is left."""
    lines = code.rstrip().split("\n")
    for end in range(len(lines), max(0, len(lines) - _CUTS), -1):
        text = "\n".join(lines[:end])
        if text.strip() and _compiles(prompt + text):
            return text
    return None


def _compiles(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "completion", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True


def _parsed(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
