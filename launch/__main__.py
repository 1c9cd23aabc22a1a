"""Every command of the project under one name: `nvlm train ...` is `python -m launch.train ...`."""

from __future__ import annotations

import ast
import pathlib
import runpy
import sys

COMMANDS = (
    "quickstart",
    "prepare",
    "show_batch",
    "train",
    "evaluate",
    "compare",
    "generate",
    "serve",
    "convert",
    "plan",
    "submit",
    "sweep",
    "report",
    "verify_order",
    "tiny_assets",
)
BENCHMARKS = (
    "step",
    "tiles",
    "attention",
    "tile_tags",
    "pytorch",
    "decode",
    "engine",
    "serve",
    "packing",
    "data",
    "convert",
)


ALL = (*COMMANDS, *(f"benchmarks.{name}" for name in BENCHMARKS))


def main() -> None:
    """Run the command that the first argument names, or list all of them.

    Exits with 2 and the list where the name is missing or unknown.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("help", "--help", "-h"):
        print(overview())
    elif name in ALL:
        sys.argv[:2] = [f"nvlm {name}"]
        runpy.run_module(f"launch.{name}", run_name="__main__", alter_sys=True)
    else:
        problem = f"nvlm: no command {name!r}" if name else "nvlm: which command?"
        print(f"{problem}\n\n{overview()}", file=sys.stderr)
        sys.exit(2)


def overview() -> str:
    """The commands, a line each: the first line of their modules."""
    lines = [f"  {name:<20} {_summary(name)}" for name in ALL]
    return "\n".join(["usage: nvlm COMMAND [--flag=value ...]     nvlm COMMAND --help", "", *lines])


def _summary(name: str) -> str:
    """First line of a command's docstring, read without importing what the command needs."""
    source = pathlib.Path(__file__).parent.joinpath(*name.split(".")).with_suffix(".py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]


if __name__ == "__main__":
    main()
