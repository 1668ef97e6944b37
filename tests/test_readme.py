# SPDX-License-Identifier: Apache-2.0
"""The Python in the README and in the guide runs, from top to bottom."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# How many blocks of code there are, and what they print.
DOCUMENTS = {
    "README.md": (4, ["NDArray 3x3", "compiled", "covariance[2, 1]"]),
    "docs/inference.md": (8, ["compiled", "us per step", "covariance[2, 1]", "Log evidence", "sampled", "max_iter"]),
    "docs/scale.md": (4, ["50000 rows of shape (3,)", "off the closed form by", "7 patterns of missing entries"]),
}


@pytest.mark.filterwarnings("ignore:.*csr_matrix:DeprecationWarning")  # MXNet's, where ArviZ looks at arrays
@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_code_of_a_document_runs(name, capsys):
    count, printed = DOCUMENTS[name]
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)
    assert len(blocks) == count
    exec(compile("\n".join(blocks), name, "exec"), {})
    out = capsys.readouterr().out
    assert all(text in out for text in printed), out
