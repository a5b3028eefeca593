# SPDX-License-Identifier: Apache-2.0
"""The specification's own example reads the committed records."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/reference/record-format.md"
VECTORS = Path(__file__).parent / "vectors"


def test_the_documented_python_reads_a_record(tmp_path):
    example = tmp_path / "example.py"
    example.write_text(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0])

    ran = subprocess.run(
        [sys.executable, example, VECTORS / "flow.msgpack"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert ran.stdout == (
        "flow web-1 2 [1795428000000000000 1795428000000000001] ['wg-ü' 'eth0']"
        " [               1500 9223372036854775808]\n"
    )
