"""Sends numbered events through a spool until it is killed: ``python killed_sender.py URL DIRECTORY FIRST``.

Prints the number of the next event each time that all before it are durable.
"""

import sys
from pathlib import Path

from flag_analytics import Delivery, DeliveryOptions, FlagEvaluationEvent
from flag_analytics_webhook import WebhookOptions, WebhookSink

url, directory, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
options = DeliveryOptions(
    durability="spool",
    spool_directory=directory,
    batch_size=7,
    flush_interval_seconds=0.0,
    spool_interval_seconds=0.005,
)
delivery = Delivery({"webhook": WebhookSink(WebhookOptions(url=url))}, options)
while True:
    for _ in range(5):
        delivery.record_nowait(FlagEvaluationEvent.now(str(number), value=True, reason="STATIC"))
        number += 1
    if delivery.persist():
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
