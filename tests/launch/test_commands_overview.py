"""`nvlm`: every command under one name."""

import pathlib
import re

import pytest

from launch.__main__ import ALL
from tests.commands import command

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


def test_every_command_of_launch_is_in_the_list():
    files = {".".join(path.relative_to(LAUNCH).with_suffix("").parts): path for path in LAUNCH.rglob("*.py")}
    runnable = {name for name, path in files.items() if '__name__ == "__main__"' in path.read_text()}
    assert set(ALL) == runnable - {"__main__"}


def test_help_lists_all_commands_with_what_they_do():
    done = command("launch", "--help")
    assert done.returncode == 0
    for name in ALL:
        [line] = [line for line in done.stdout.splitlines() if line.startswith(f"  {name} ")]
        assert len(line.split()) > 4, line


def test_unknown_command_is_named_beside_the_right_ones():
    done = command("launch", "trian")
    assert done.returncode == 2
    assert "no command 'trian'" in done.stderr and "  train " in done.stderr


def test_arguments_reach_the_command():
    done = command("launch", "compare", "--no_such_flag=1")
    assert done.returncode == 1
    assert "no_such_flag" in done.stderr


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("benchmarks.")])
def test_a_benchmark_has_its_own_few_flags(name):
    done = command(f"launch.{name}", "--help")
    own = re.findall(r"^  --(?:\[no\])?(\w+):", done.stdout, re.MULTILINE)
    assert 1 <= len(own) <= 8, done.stdout + done.stderr
