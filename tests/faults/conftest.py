"""The architectures of the edits' tests."""

from __future__ import annotations

import runpy
from pathlib import Path

architecture = runpy.run_path(str(Path(__file__).parents[1] / "edits" / "conftest.py"))[
    "architecture"
]
