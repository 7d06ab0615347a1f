"""The entry point: what this distribution offers to flag-analytics."""
