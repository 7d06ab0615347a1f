"""Lets one test module use another's functions, since test modules are imported by their paths."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture
def files_kills():
    spec = importlib.util.spec_from_file_location("files_kills", Path(__file__).with_name("test_files_kills.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
