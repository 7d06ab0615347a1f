"""Rollups of events that outlive the rows: summaries of windows, what is kept of them, and answers from them."""
