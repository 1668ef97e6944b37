# SPDX-License-Identifier: Apache-2.0
"""The Python in the README runs, from top to bottom."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_code_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    exec(compile("\n".join(blocks), str(README), "exec"), {})
    assert "NDArray 3x3" in capsys.readouterr().out
