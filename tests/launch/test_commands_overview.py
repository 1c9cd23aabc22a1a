"""`nvlm`: every command under one name."""

import pathlib

from launch.__main__ import COMMANDS
from tests.commands import command

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


def test_every_command_of_launch_is_in_the_list():
    runnable = {path.stem for path in LAUNCH.glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert set(COMMANDS) == runnable - {"__main__"}


def test_help_lists_all_commands_with_what_they_do():
    done = command("launch", "--help")
    assert done.returncode == 0
    for name in COMMANDS:
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
