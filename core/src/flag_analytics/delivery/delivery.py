"""``Delivery``: events in from any thread, batches out to every sink, each on its own worker."""
