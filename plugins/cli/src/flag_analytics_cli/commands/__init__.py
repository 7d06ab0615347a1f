"""The subcommands: each is a function whose parameters are its options, and imports what it needs when it runs."""

from __future__ import annotations
