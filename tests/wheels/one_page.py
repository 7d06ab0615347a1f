"""One event on the page and in the API, with what the wheels of memory, API and dashboard bring and nothing else."""

import asyncio
import json
import re

from flag_analytics import FlagEvaluationEvent, open_pipeline
from flag_analytics_api import ApiOptions
from flag_analytics_dashboard import create_dashboard


async def get(app, path: str) -> bytes:
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 200, (path, sent)
    return b"".join(message.get("body", b"") for message in sent[1:])


with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
    assert pipeline.record_nowait(FlagEvaluationEvent.now("checkout", True, "SPLIT", "treatment", "user-1", {}, 1.5))
    page = create_dashboard(pipeline, ApiOptions(loopback=True))
    (flag,) = json.loads(asyncio.run(get(page, "/api/v1/flags")))["flags"]
    assert (flag["key"], flag["count"]) == ("checkout", 1)
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', asyncio.run(get(page, "/")).decode())
    assert len(files) == 6, files
    for file in files:
        assert asyncio.run(get(page, file))
