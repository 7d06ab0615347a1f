"""The flag-analytics command."""
