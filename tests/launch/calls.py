"""A command's `main` several times in one process: python -m tests.launch.calls evaluate '[["--flag=1"], ...]'.

Its last line is what each call ended with: null, the message of an error or what it gave to sys.exit.
"""

import importlib
import json
import sys

from absl import flags


def call(command, given: list[str]) -> str | int | None:
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    try:
        flags.FLAGS([command.__name__, *given])
        command.main([command.__name__])
    except SystemExit as end:
        return end.code
    except Exception as error:
        return str(error)
    return None


if __name__ == "__main__":
    command = importlib.import_module(f"launch.{sys.argv[1]}")
    print(json.dumps([call(command, given) for given in json.loads(sys.argv[2])]))
