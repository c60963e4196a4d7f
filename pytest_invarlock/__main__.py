"""``python -m pytest_invarlock`` is the console script ``invarlock``."""

from __future__ import annotations

import sys

from pytest_invarlock.cli import main

if __name__ == "__main__":
    sys.exit(main())
