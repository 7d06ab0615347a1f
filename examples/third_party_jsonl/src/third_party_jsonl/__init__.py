"""A collector for flag-analytics that appends every event to a JSON Lines file."""
