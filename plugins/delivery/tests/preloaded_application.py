"""An application for a server with several workers that imports it once (``gunicorn --preload``): each request records.

The environment says where: ``STORED`` is a file that every process appends what it delivers to, ``RECORDED`` another
one for what was accepted. ``/?count=3`` records three events; the answer is the worker's process id.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import parse_qs

from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.samples import plain_events
from flag_analytics_delivery import Delivery


def append(path, lines):
    with Path(path).open("a", encoding="ascii") as file:
        file.write("".join(f"{line}\n" for line in lines))


class File:
    async def write(self, batch):
        append(os.environ["STORED"], [event.event_id for event in batch])

    async def close(self):
        pass


# Nothing is delivered before the end: what the workers have not sent by then is what a server may lose.
delivery = Delivery({"file": File()}, DeliveryOptions(flush_interval_seconds=60.0, batch_size=50_000))


def record(count):
    events = list(plain_events(count))
    append(os.environ["RECORDED"], [event.event_id for event in events if delivery.record_nowait(event)])


def application(environ, start_response):
    record(int(parse_qs(environ["QUERY_STRING"])["count"][0]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


record(50)  # in the parent, before it forks
