# SPDX-License-Identifier: Apache-2.0
"""What the library was built from, in few letters. It imports nothing of the package: setup.py runs this file alone."""

import hashlib
from pathlib import Path

SOURCES = Path(__file__).parent / "src"


def digest(formulas):
    """
    A text that changes with the C sources and the formulas.

    :param formulas: list of texts, those of the table of operators.
    :returns: 16 hexadecimal digits; None where the sources are not there, as in a wheel, which has the library itself.
    """
    if not SOURCES.exists():
        return None
    files = [path for path in sorted(SOURCES.iterdir()) if path.suffix in (".c", ".h", ".inc")]
    texts = [path.read_text() for path in files if path.name != "formulas.h"]
    return hashlib.sha256("\n".join([*formulas, *texts]).encode()).hexdigest()[:16]
