"""An application under test, for several worker processes: records evaluations on request, and shows the metrics.

``/record?flag=a&first=0&count=10&errors=1`` records evaluations for users ``user-0`` to ``user-9``; with ``meet=1`` it
waits until four workers are at it. Every answer but the metrics is the worker's process id.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs

from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.pipeline import open_pipeline
from flag_analytics_prometheus import wsgi_app

pipeline = open_pipeline({"exporters": {"prometheus": {"max_flag_keys": 3}}})
exporter = pipeline.exporters["prometheus"]
metrics = wsgi_app(exporter)


def meet(name):
    directory = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    (directory / f"meeting-{name}-{os.getpid()}").touch()
    deadline = time.monotonic() + 20
    while len(list(directory.glob(f"meeting-{name}-*"))) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def application(environ, start_response):
    if environ["PATH_INFO"] == "/metrics":
        return metrics(environ, start_response)
    query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    if "meet" in query:
        meet(query["meet"])
    if environ["PATH_INFO"] == "/record":
        first, errors = int(query.get("first", 0)), int(query.get("errors", 0))
        for number in range(int(query["count"])):
            reason = "ERROR" if number < errors else "SPLIT"
            pipeline.record_nowait(
                FlagEvaluationEvent(
                    datetime.now(UTC), query["flag"], True, reason, "a", f"user-{first + number}", {}, 1.5
                )
            )
    if environ["PATH_INFO"] == "/set":
        exporter.update_from_metrics(query["flag"], {"unique_users": query["users"], "error_rate": 50.0})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
