"""The django-waffle adapter with the real application, its flags in a database of this process."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path

import attrs
import django
import pytest
from django.conf import settings
from django.test import RequestFactory
from django.utils.functional import SimpleLazyObject
from flag_analytics import open_pipeline

_DIRECTORY = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
if not settings.configured:
    settings.configure(
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "waffle"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(_DIRECTORY.name) / "waffle.db"}},
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
        USE_TZ=True,
    )
    django.setup()

from django.core.management import call_command  # noqa: E402 - models need the settings
from django.db import connection  # noqa: E402
from flag_analytics_sdks.waffle import instrument  # noqa: E402
from sdk_conformance import AdapterConformance, Client, Sdk, case, events_of  # noqa: E402
from waffle import flag_is_active, sample_is_active, switch_is_active  # noqa: E402
from waffle.models import Flag, Sample, Switch  # noqa: E402

CASES = {
    "hit": case("hit", reason="UNKNOWN", value=True, error_type=None),
    "miss": case("missing", reason="ERROR", error_type="FLAG_NOT_FOUND", value=False),
    "wrong type": case("switch", reason="STATIC", targeting_key=None),  # a switch belongs to no request
    "disabled": case("off", reason="DISABLED", value=False),
    "split": case("split", reason="SPLIT", value=True),
    "error": case("hit", reason="ERROR", error_type="GENERAL", value=None, targeting_key=None),
}


@attrs.frozen
class Person:
    """What waffle reads of a user."""

    pk: str
    is_authenticated: bool = True


@pytest.fixture(scope="module", autouse=True)
def _database():
    call_command("migrate", verbosity=0)
    Flag.objects.create(name="hit", authenticated=True)
    Flag.objects.create(name="off", everyone=False)
    Flag.objects.create(name="on", everyone=True)
    Flag.objects.create(name="split", percent=50)
    Switch.objects.create(name="switch", active=True)
    Sample.objects.create(name="sample", percent="100.0")
    yield
    connection.close()


def _unreachable():
    raise ConnectionError("the database of users is down")


def evaluate(name, user):
    request = RequestFactory().get("/")
    request.user = SimpleLazyObject(_unreachable) if name == "error" else Person(user)
    request.COOKIES["dwf_split"] = "True"  # drawn at an earlier request
    try:
        if name == "wrong type":
            return switch_is_active("switch")
        return flag_is_active(request, CASES[name].flag)
    except ConnectionError as error:
        return str(error)


@contextmanager
def open_client(pipeline, **options):
    for name in CASES:
        evaluate(name, "user-0")  # into the cache: threads and event loops then need no database
    adapter = None if pipeline is None else instrument(pipeline, **options)
    try:
        yield Client(evaluate, lambda: adapter.failures if adapter else {})
    finally:
        if adapter:
            for model in (Flag, Switch, Sample):
                del model.is_active  # below it is the class's own


class TestWaffle(AdapterConformance):
    sdk = Sdk(provider_name="django-waffle", cases=CASES, open=open_client, attributes={})


def _recorded(evaluation):
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline, open_client(pipeline) as client:
        evaluation()
        assert client.failures() == {}
        return events_of(pipeline)


def test_to_record_an_evaluation_loads_no_user():
    request = RequestFactory().get("/")
    request.user = SimpleLazyObject(_unreachable)
    (event,) = _recorded(lambda: flag_is_active(request, "on"))
    assert (event.value, event.reason, event.targeting_key) == (True, "STATIC", None)


def test_a_user_that_was_loaded_is_recorded():
    request = RequestFactory().get("/")
    request.user = SimpleLazyObject(lambda: Person("user-1"))
    assert request.user.is_authenticated
    (event,) = _recorded(lambda: flag_is_active(request, "on"))
    assert event.targeting_key == "user-1"


def test_a_request_without_a_user_has_none():
    (event,) = _recorded(lambda: flag_is_active(RequestFactory().get("/"), "on"))
    assert event.targeting_key is None


def test_a_sample_is_a_split():
    (event,) = _recorded(lambda: sample_is_active("sample"))
    assert (event.flag_key, event.value, event.reason) == ("sample", True, "SPLIT")


def test_instrumented_twice_the_last_pipeline_records():
    with open_pipeline({"collectors": {"memory": {}}}) as first, open_pipeline({"collectors": {"memory": {}}}) as last:
        with open_client(first):
            instrument(last)
            evaluate("hit", "user-1")
        assert events_of(first) == []
        assert len(events_of(last)) == 1
