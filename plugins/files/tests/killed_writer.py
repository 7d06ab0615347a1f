"""Stores numbered events through a spool until it is killed: ``python killed_writer.py OPTIONS DIRECTORY FIRST``.

Prints the number of the next event each time that all before it are durable.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

from flag_analytics import Delivery, DeliveryOptions, FlagEvaluationEvent
from flag_analytics_files import FilesOptions, FilesSink

options = json.loads(sys.argv[1])
age = timedelta(seconds=options.pop("max_file_age"))
files = FilesOptions(**options, max_file_age=age)
directory, number = Path(sys.argv[2]), int(sys.argv[3])
options = DeliveryOptions(
    durability="spool",
    spool_directory=directory,
    batch_size=7,
    flush_interval_seconds=0.0,
    spool_interval_seconds=0.005,
)
delivery = Delivery({"files": FilesSink(files)}, options)
while True:
    for _ in range(5):
        delivery.record_nowait(FlagEvaluationEvent.now(str(number), value=True, reason="STATIC"))
        number += 1
    if delivery.persist():
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
