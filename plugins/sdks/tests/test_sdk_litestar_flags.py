"""litestar-flags with its own collector and the adapter beside it: every evaluation is recorded, and once."""

from __future__ import annotations

import pytest
from flag_analytics import open_pipeline
from flag_analytics_sdks.litestar_flags import instrument
from litestar_flags import EvaluationContext, FeatureFlagClient, MemoryStorageBackend
from litestar_flags.models.flag import FeatureFlag
from litestar_flags.types import FlagStatus, FlagType


class Broken(MemoryStorageBackend):
    async def get_flag(self, key):
        raise ConnectionError("the database is down")


def _flag(key, kind=FlagType.BOOLEAN, *, status=FlagStatus.ACTIVE):
    return FeatureFlag(
        key=key,
        name=key,
        flag_type=kind,
        status=status,
        default_enabled=True,
        default_value=None,
        tags=[],
        metadata_={},
        rules=[],
        overrides=[],
        variants=[],
    )


USER = EvaluationContext(targeting_key="user-1", attributes={"plan": "team"})


@pytest.fixture
def pipeline():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        yield pipeline


async def _client(pipeline, storage=None, **options):
    storage = MemoryStorageBackend() if storage is None else storage
    if not isinstance(storage, Broken):
        await storage.create_flag(_flag("on"))
    client = FeatureFlagClient(storage, analytics_collector=pipeline)
    return client, instrument(client, pipeline, **options)


async def _events(pipeline):
    return await pipeline.collectors["memory"].get_events()


async def test_what_the_client_tells_itself_is_recorded_once(pipeline):
    client, adapter = await _client(pipeline)
    assert await client.get_boolean_value("on", default=False, context=USER) is True
    (event,) = await _events(pipeline)
    assert (event.flag_key, event.value, event.error_type) == ("on", True, None)
    assert adapter.failures == {}


async def test_a_missing_flag_is_an_error(pipeline):
    client, adapter = await _client(pipeline)
    assert await client.get_string_value("missing", default="red", context=USER) == "red"
    (event,) = await _events(pipeline)
    assert (event.value, event.reason, event.error_type) == ("red", "ERROR", "FLAG_NOT_FOUND")
    assert (event.targeting_key, event.context_attributes) == ("user-1", {"plan": "team"})
    assert event.provider_name == "litestar-flags"
    assert event.evaluation_duration_ms > 0
    assert adapter.failures == {}


async def test_a_flag_of_another_type_is_an_error(pipeline):
    client, _ = await _client(pipeline)
    assert await client.get_number_value("on", default=1.5) == 1.5
    (event,) = await _events(pipeline)
    assert (event.reason, event.error_type, event.targeting_key) == ("ERROR", "TYPE_MISMATCH", None)


async def test_an_error_of_the_storage_is_an_error(pipeline):
    client, _ = await _client(pipeline, Broken())
    assert await client.get_boolean_value("on", default=True, context=USER) is True
    (event,) = await _events(pipeline)
    assert (event.value, event.reason, event.error_type) == (True, "ERROR", "GENERAL")


async def test_a_pipeline_that_fails_changes_no_answer():
    class Exploding:
        def record_nowait(self, event):
            raise RuntimeError("a sink exploded")

    client = FeatureFlagClient(MemoryStorageBackend())
    adapter = instrument(client, Exploding())
    assert await client.get_boolean_value("missing", default=True) is True
    assert adapter.failures == {"RuntimeError": 1}


async def test_instrumented_twice_an_error_is_recorded_once(pipeline):
    client, _ = await _client(pipeline)
    instrument(client, pipeline, context_attributes=False)
    await client.get_boolean_value("missing", default=True, context=USER)
    (event,) = await _events(pipeline)
    assert event.context_attributes == {}
