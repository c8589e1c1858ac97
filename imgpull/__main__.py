"""``python -m imgpull`` is the command ``imgpull``."""

from __future__ import annotations

import sys

from imgpull.cli import main

if __name__ == "__main__":
    sys.exit(main())
