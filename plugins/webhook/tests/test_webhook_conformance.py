"""The exporter keeps the promises of every exporter, with its receiver behind a proxy that breaks connections."""

from collections import Counter
from datetime import datetime
from typing import ClassVar

import pytest
from flag_analytics.testing import ExporterContract
from flag_analytics_webhook import WebhookOptions, WebhookSink


class OverHttp(ExporterContract):
    idempotent = True
    options: ClassVar[dict] = {}

    @pytest.fixture
    def server_address(self, receiver):
        self.receiver = receiver
        return receiver.address

    @pytest.fixture
    def exporter(self, fault_proxy):
        url = "http://{}:{}/events".format(*fault_proxy.address)
        return WebhookSink(WebhookOptions(url=url, **self.options))

    def events(self):
        return list(self.receiver.stored.values())

    async def exported(self, exporter):
        return Counter(event["flag_key"] for event in self.events())

    async def arrived(self, exporter):
        return [
            {**{name: event[name] for name in self.carries}, "timestamp": datetime.fromisoformat(event["timestamp"])}
            for event in self.events()
        ]


class TestJson(OverHttp):
    options: ClassVar = {"signing_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}


class TestCompressedCloudEvents(OverHttp):
    options: ClassVar = {"format": "cloudevents", "compression": "gzip"}

    def events(self):
        return [event["data"] for event in self.receiver.stored.values()]
