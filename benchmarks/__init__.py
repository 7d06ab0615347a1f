"""Side-by-side measurements of flag-analytics and its peers, as they come from the package index."""
