"""``python -m flag_analytics_cli`` is the ``flag-analytics`` command."""

from __future__ import annotations

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
