"""The one way to read configuration: ``sources`` to ``options`` to ``plan``, with ``secrets`` kept out of messages."""
