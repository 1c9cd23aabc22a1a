"""Whether this machine lets a process make the namespaces of the sandbox: tried without the sandbox's own code.

So that a sandbox that no longer isolates fails its tests, instead of skipping them.
"""

import subprocess
import sys

import pytest

PROBE = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x7C020000) != 0)"  # its user namespace and others


def skip_without_namespaces() -> None:
    """Skip the module that calls this where they cannot be made."""
    if not sys.platform.startswith("linux") or subprocess.run([sys.executable, "-c", PROBE], check=False).returncode:
        pytest.skip("no namespaces here", allow_module_level=True)
