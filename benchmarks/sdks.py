"""What an adapter adds to an evaluation of its SDK, beside an empty hook, callback or wrapper of the same SDK."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

from flag_analytics.pipeline import open_pipeline

from ._harness import Contender, Limit, Table, Timed, calls, compare

_MOST = 20_000


def _nothing(*_: Any, **__: Any) -> None:
    pass


@contextmanager
def _launchdarkly(pipeline: Any) -> Iterator[Timed]:
    from flag_analytics_sdks.launchdarkly import AnalyticsHook
    from ldclient import Context, LDClient
    from ldclient.config import Config
    from ldclient.hook import Hook, Metadata
    from ldclient.integrations.test_data import TestData

    class Empty(Hook):
        @property
        def metadata(self) -> Metadata:
            return described

        def before_evaluation(self, _: Any, data: dict[str, Any]) -> dict[str, Any]:
            return data

        def after_evaluation(self, _: Any, data: dict[str, Any], __: Any) -> dict[str, Any]:
            return data

    described = Metadata("empty")
    flags = TestData.data_source()
    flags.update(flags.flag("f").variation_for_all(True))
    hook = AnalyticsHook(pipeline) if pipeline else Empty()
    client = LDClient(Config("key", update_processor_class=flags, send_events=False, hooks=[hook]), start_wait=5)
    context = Context.builder("user-1").set("plan", "team").build()
    yield calls(client.variation, "f", context, False)
    client.close()


@contextmanager
def _posthog(pipeline: Any) -> Iterator[Timed]:
    from flag_analytics_sdks.posthog import AnalyticsHook
    from posthog import Posthog

    client = Posthog("key", before_send=AnalyticsHook(pipeline) if pipeline else lambda message: message, send=False)
    client.feature_flags = [{"id": 1, "key": "f", "active": True, "filters": {"groups": [{"rollout_percentage": 100}]}}]
    users = itertools.count()

    def evaluate() -> bool:
        # The SDK calls back for users that it has not seen.
        return client.evaluate_flags(f"user-{next(users)}", only_evaluate_locally=True).is_enabled("f")

    yield calls(evaluate)


@contextmanager
def _growthbook(pipeline: Any) -> Iterator[Timed]:
    from flag_analytics_sdks.growthbook import AnalyticsHook
    from growthbook import GrowthBook

    used = AnalyticsHook(pipeline).on_feature_usage if pipeline else _nothing
    features = {"f": {"defaultValue": "red", "rules": [{"condition": {"plan": "team"}, "force": "blue"}]}}
    client = GrowthBook(attributes={"id": "user-1", "plan": "team"}, features=features, on_feature_usage=used)
    yield calls(client.get_feature_value, "f", "red")
    client.destroy()


@contextmanager
def _configcat(pipeline: Any) -> Iterator[Timed]:
    from configcatclient import ConfigCatClient
    from configcatclient.configcatoptions import ConfigCatOptions, Hooks
    from configcatclient.localdictionarydatasource import LocalDictionaryFlagOverrides
    from configcatclient.overridedatasource import OverrideBehaviour
    from configcatclient.user import User
    from flag_analytics_sdks.configcat import AnalyticsHook

    overrides = LocalDictionaryFlagOverrides({"f": True}, OverrideBehaviour.LocalOnly)
    hooks = Hooks(on_flag_evaluated=AnalyticsHook(pipeline) if pipeline else _nothing)
    key = "with" if pipeline else "without"
    client = ConfigCatClient.get(key, ConfigCatOptions(flag_overrides=overrides, hooks=hooks))
    yield calls(client.get_value, "f", False, User("user-1", custom={"plan": "team"}))
    client.close()


@contextmanager
def _unleash(pipeline: Any) -> Iterator[Timed]:
    from flag_analytics_sdks.unleash import instrument
    from flag_analytics_sdks.wrapping import observe
    from UnleashClient import UnleashClient
    from UnleashClient.cache import FileCache

    name = "with" if pipeline else "without"
    with tempfile.TemporaryDirectory(prefix="flag-analytics-bench-") as directory:
        cache = FileCache(name, directory=directory)
        toggle = {"name": "f", "enabled": True, "strategies": [{"name": "default"}]}
        cache.bootstrap_from_dict({"version": 1, "features": [toggle]})
        offline = {"cache": cache, "disable_metrics": True, "disable_registration": True}
        client = UnleashClient("http://127.0.0.1:9/api", name, **offline)
        client.initialize_client(fetch_toggles=False)
        if pipeline:
            instrument(client, pipeline)
        else:
            observe(client, "is_enabled", _nothing)
        yield calls(client.is_enabled, "f", {"userId": "user-1", "properties": {"plan": "team"}})
        client.destroy()


@contextmanager
def _statsig(pipeline: Any) -> Iterator[Timed]:
    from flag_analytics_sdks.statsig import instrument
    from flag_analytics_sdks.wrapping import observe
    from statsig import StatsigOptions, StatsigServer, StatsigUser

    server = StatsigServer()
    server.initialize("secret-key", StatsigOptions(local_mode=True))
    server.override_gate("f", True)
    if pipeline:
        instrument(server, pipeline)
    else:
        observe(server, "get_feature_gate", _nothing)
    yield calls(server.check_gate, StatsigUser("user-1", custom={"plan": "team"}), "f")
    server.shutdown()


@contextmanager
def _statsig_python_core(pipeline: Any) -> Iterator[Timed]:
    from flag_analytics_sdks.statsig_python_core import instrument
    from flag_analytics_sdks.wrapping import observe
    from statsig_python_core import Statsig, StatsigOptions, StatsigUser

    client = Statsig("secret-key", StatsigOptions(disable_network=True, output_log_level="none"))
    client.override_gate("f", True)
    if pipeline:
        instrument(client, pipeline)
    else:
        observe(client, "get_feature_gate", _nothing)
    yield calls(client.get_feature_gate, StatsigUser("user-1", custom={"plan": "team"}), "f")
    client.shutdown().wait()


@contextmanager
def _flagsmith(pipeline: Any) -> Iterator[Timed]:
    from flag_analytics_sdks.flagsmith import instrument
    from flag_analytics_sdks.wrapping import observe
    from flagsmith import Flagsmith

    state = {
        "feature": {"id": 1, "name": "f", "type": "STANDARD"},
        "enabled": True,
        "django_id": 1,
        "featurestate_uuid": "00000000-0000-4000-8000-000000000001",
        "feature_state_value": "blue",
        "multivariate_feature_state_values": [],
    }
    document = {"api_key": "key", "name": "bench", "project": {"segments": []}, "feature_states": [state]}
    handler = SimpleNamespace(get_environment=lambda: document)
    client = Flagsmith(offline_mode=True, offline_handler=handler)
    if pipeline:
        instrument(client, pipeline)
    else:

        def watch(flags: Any, *_: Any, **__: Any) -> None:
            original = flags.get_flag
            flags.get_flag = lambda name: original(name)  # noqa: PLW0108 - it is the empty wrapper

        observe(client, "get_identity_flags", watch)

    def evaluate() -> Any:
        return client.get_identity_flags("user-1", {"plan": "team"}).get_feature_value("f")

    yield calls(evaluate)


@contextmanager
def _waffle(pipeline: Any) -> Iterator[Timed]:
    flag_is_active, request = _django()
    from flag_analytics_sdks.waffle import instrument
    from flag_analytics_sdks.wrapping import observe
    from waffle.models import Flag, Sample, Switch

    if pipeline:
        instrument(pipeline)
        del Switch.is_active, Sample.is_active
    else:
        observe(Flag, "is_active", _nothing)
    observed = Flag.is_active
    del Flag.is_active
    timed = calls(flag_is_active, request, "f")

    def in_turn(operations: int) -> int:
        # All contenders share the model: each has its method there for as long as it runs.
        Flag.is_active = observed
        try:
            return timed(operations)
        finally:
            del Flag.is_active

    yield in_turn


@functools.cache
def _django() -> tuple[Any, Any]:
    """Set django-waffle up once in this process, with a flag in its cache; return what evaluates it, and a request."""
    import django
    from django.conf import settings

    settings.configure(
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "waffle"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
        USE_TZ=True,
    )
    django.setup()
    from django.core.management import call_command
    from django.test import RequestFactory
    from waffle import flag_is_active
    from waffle.models import Flag

    call_command("migrate", verbosity=0)
    Flag.objects.create(name="f", everyone=True)
    request = RequestFactory().get("/")
    request.user = SimpleNamespace(pk="user-1", is_authenticated=True)
    return flag_is_active, request


def _table(name: str, opened: Callable[[Any], Any]) -> Table:
    with ExitStack() as stack:
        pipeline = stack.enter_context(open_pipeline({"collectors": {"memory": {"max_size": 10_000}}}))
        empty = Contender("empty", stack.enter_context(opened(None)), most=_MOST)
        ours = Contender("the adapter, to memory", stack.enter_context(opened(pipeline)), most=_MOST)
        limit = Limit(ours.name, at_most=1.5, times=empty.name)
        return compare(f"An evaluation with {name}", [empty, ours], limits=[limit])


def launchdarkly() -> Table:
    """Time an evaluation with LaunchDarkly."""
    return _table("LaunchDarkly", _launchdarkly)


def posthog() -> Table:
    """Time an evaluation with PostHog, of a user not yet seen."""
    return _table("PostHog, of a user not yet seen", _posthog)


def growthbook() -> Table:
    """Time an evaluation with GrowthBook."""
    return _table("GrowthBook", _growthbook)


def configcat() -> Table:
    """Time an evaluation with ConfigCat."""
    return _table("ConfigCat", _configcat)


def unleash() -> Table:
    """Time an evaluation with Unleash."""
    return _table("Unleash", _unleash)


def statsig() -> Table:
    """Time an evaluation with Statsig."""
    return _table("Statsig", _statsig)


def statsig_python_core() -> Table:
    """Time an evaluation with statsig-python-core."""
    return _table("statsig-python-core", _statsig_python_core)


def flagsmith() -> Table:
    """Time an evaluation with Flagsmith."""
    return _table("Flagsmith", _flagsmith)


def waffle() -> Table:
    """Time an evaluation with django-waffle, of a flag in its cache."""
    return _table("django-waffle", _waffle)


BENCHMARKS = (launchdarkly, posthog, growthbook, configcat, unleash, statsig, statsig_python_core, flagsmith, waffle)
