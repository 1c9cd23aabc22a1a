"""README.md and docs/*.md taken literally: their Python knows its names, their commands and flags exist."""

import ast
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from configs.nvlm import get_config
from launch.config_flag import with_brackets
from nvlm_jax.config import RunConfig
from nvlm_jax.mapping import dotted_keys

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMON = {"help", "helpshort", "helpfull", "flagfile"}


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def commands(text: str) -> list[list[str]]:
    """Every `python -m launch.NAME ...` of fenced blocks, lines joined, and of inline code; comments cut off."""
    fenced = "\n".join(re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.S | re.M)).replace("\\\n", " ")
    inline = [" ".join(code.split()) for code in re.findall(r"`(python -m launch\.[^`]+)`", text)]
    found = []
    for line in [*fenced.splitlines(), *inline]:
        for match in re.finditer(r"python -m launch\.[^;&|]*", line.split(" #")[0]):
            found.append(shlex.split(match[0]))
    return found


def flags_of(module: str) -> set[str]:
    """Names of the flags that a command's file, and what it imports of launch/, define."""
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    names = set(COMMON)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("launch"):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name for each in (node.module, *inside) if _is_file(each) for name in flags_of(each)}
        called = getattr(getattr(node, "func", None), "attr", getattr(getattr(node, "func", None), "id", ""))
        if called.startswith("DEFINE_") and node.args and isinstance(node.args[0], ast.Constant):
            names.add(node.args[0].value)
    return names


def _is_file(module: str) -> bool:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file()


def faults(command: list[str]) -> list[str]:
    """What of the command does not exist."""
    module, arguments = command[2].rstrip(".,"), command[3:]
    if not _is_file(module):
        return [f"no command {module}"]
    known, lines = flags_of(module), []
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        key, _, value = argument[2:].partition("=")
        if key.startswith("config."):
            path = re.sub(r"\[\d+\]", "", with_brackets(f"--{key}").removeprefix("--config."))
            lines += [] if path in dotted_keys(RunConfig) else [f"no key {path}"]
        elif key not in known and key.removeprefix("no") not in known:
            lines.append(f"{module} has no flag --{key}")
        elif key == "config" and value.startswith("configs/") and "$" not in value:
            lines += _config_faults(value)
    return lines


def _config_faults(value: str) -> list[str]:
    file, _, choices = value.partition(":")
    if not (ROOT / file).is_file():
        return [f"no file {file}"]
    if file == "configs/nvlm.py" and choices:
        get_config(choices)  # raises for a choice that is none
    return []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_flags_exist(page):
    wrong = {" ".join(command): lines for command in commands(page.read_text()) if (lines := faults(command))}
    assert not wrong


def test_a_wrong_command_would_be_seen():
    line = "python -m launch.train --config=configs/nvlm.py:arch=d,size=tiny \\\n  --config.train.step=3 --workdr=x"
    text = f"```\n{line}\n```"
    [command] = commands(text)
    assert faults(command) == ["no key train.step", "launch.train has no flag --workdr"]
    assert faults(shlex.split("python -m launch.trian --a")) == ["no command launch.trian"]
    assert sum(len(commands(page.read_text())) for page in PAGES) > 30


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_compiles_and_knows_its_names(page):
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M):
        ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--quiet", "--select=F821,F823,E9", "-"]
        done = subprocess.run(ruff, input=code, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout}{code}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing
