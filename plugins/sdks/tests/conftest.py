"""Makes the conformance of adapters importable, with its assertions explained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("sdk_conformance")
sys.path.append(str(Path(__file__).parent))
