"""The receiver of a test, and its module, which is imported by its path as all test modules are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("webhook_receiver", Path(__file__).with_name("receiver.py"))
_module = importlib.util.module_from_spec(_spec)
sys.modules["webhook_receiver"] = _module
_spec.loader.exec_module(_module)


@pytest.fixture
def receiver():
    with _module.Receiver() as receiver:
        yield receiver
