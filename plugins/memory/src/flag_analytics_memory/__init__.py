"""The in-memory collector of flag-analytics."""
