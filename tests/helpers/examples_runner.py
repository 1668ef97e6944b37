# SPDX-License-Identifier: Apache-2.0
"""Runs an example as a user does, in a process of its own and from another folder."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA = EXAMPLES / "data"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def run_example(name, folder, *arguments, path=()):
    """The finished process, whatever its exit status; `path` goes before all others that Python imports from."""
    path = [*path, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
