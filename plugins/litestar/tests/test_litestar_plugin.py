"""The plugin: a pipeline with the application's life, in both orders of plugins, with guards, metrics, page and API."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flag_analytics import AnalyticsAggregator, ConfigError, FlagEvaluationEvent, Pipeline, open_pipeline
from flag_analytics_api import ApiOptions
from flag_analytics_litestar import FlagAnalyticsConfig, FlagAnalyticsPlugin, database_of
from litestar import Litestar, get
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from litestar.params import FromPath, FromQuery
from litestar.plugins.prometheus import PrometheusConfig, PrometheusController
from litestar.testing import TestClient
from prometheus_client import CollectorRegistry

MEMORY = {"collectors": {"memory": {}}}
TOKEN = "a-token-of-many-characters"


def event(key="checkout", **fields) -> FlagEvaluationEvent:
    return FlagEvaluationEvent.now(key, True, "STATIC", variant="on", **fields)


@get("/orders/{number:int}")
async def order(number: FromPath[int], flag_analytics_pipeline: NamedDependency[Pipeline]) -> int:
    flag_analytics_pipeline.record_nowait(event())
    return number


@get("/count")
async def count(flag_analytics_aggregator: NamedDependency[AnalyticsAggregator], key: FromQuery[str]) -> int:
    return (await flag_analytics_aggregator.get_flag_metrics(key)).total_evaluations


def application(source: Any = MEMORY, *, plugins: list[Any] | None = None, debug: bool = False, **settings: Any):
    plugin = FlagAnalyticsPlugin(FlagAnalyticsConfig(source, **settings))
    return Litestar([order, count], plugins=[plugin, *(plugins or [])], debug=debug), plugin


def test_handlers_get_the_pipeline_and_its_aggregator():
    app, plugin = application()
    with TestClient(app) as client:
        assert client.get("/orders/7").json() == 7
        assert client.get("/count?key=checkout").json() == 1
        assert app.state.flag_analytics_pipeline is plugin.pipeline
    assert plugin.pipeline is None


def test_names_of_the_dependencies_are_configurable():
    @get("/")
    async def handler(pipe: NamedDependency[Pipeline]) -> bool:
        return pipe.closed

    config = FlagAnalyticsConfig(MEMORY, pipeline_dependency_key="pipe", aggregator_dependency_key="figures")
    with TestClient(Litestar([handler], plugins=[FlagAnalyticsPlugin(config)])) as client:
        assert client.get("/").json() is False


def test_the_pipeline_drains_when_the_application_ends_and_opens_anew_with_the_next_start(tmp_path):
    source = {"collectors": {"database": {"connection_string": f"sqlite:///{tmp_path}/flags.db"}}}
    app, _ = application(source)
    for _ in range(2):
        with TestClient(app) as client:
            for number in range(100):
                assert client.get(f"/orders/{number}").status_code == 200
    with open_pipeline(source, environ={}) as pipeline, TestClient(application(pipeline)[0]) as client:
        assert client.get("/count?key=checkout").json() == 200


def test_a_pipeline_that_was_opened_elsewhere_stays_open():
    with open_pipeline(MEMORY, environ={}) as pipeline:
        with TestClient(application(pipeline)[0]) as client:
            client.get("/orders/1")
        assert not pipeline.closed
        assert pipeline.stats().accepted == 1


def test_a_path_is_a_configuration_file(tmp_path):
    (tmp_path / "flags.toml").write_text("[collectors.memory]\nmax_size = 5\n", "utf-8")
    app, plugin = application(tmp_path / "flags.toml")
    with TestClient(app):
        assert plugin.pipeline.collectors["memory"].max_size == 5


def test_before_the_lifespan_a_handler_says_what_is_missing():
    app, _ = application(debug=True)
    answer = TestClient(app).get("/orders/1")
    assert answer.status_code == 500
    assert "with TestClient(app)" in answer.text


def test_a_wrong_configuration_is_an_error_when_the_application_is_made():
    with pytest.raises(ConfigError, match="memroy"):
        application({"collectors": {"memroy": {}}})


def test_events_of_a_request_carry_its_route_environment_and_release():
    app, plugin = application(environment="production", release="7")
    with TestClient(app) as client:
        client.get("/orders/7", headers={"x-request-id": "abc"})
        (recorded,) = client.blocking_portal.call(plugin.pipeline.collectors["memory"].get_events)
    assert recorded.context_attributes == {
        "http.route": "/orders/{number}",
        "environment": "production",
        "release": "7",
        "request_id": "abc",
    }


def test_request_attributes_can_be_left_out():
    app, plugin = application(request_attributes=None, environment="production")
    with TestClient(app) as client:
        client.get("/orders/7")
        (recorded,) = client.blocking_portal.call(plugin.pipeline.collectors["memory"].get_events)
    assert recorded.context_attributes == {}


# -- metrics, API and page ---------------------------------------------------------------------------------------------


def prometheus(prefix: str) -> dict[str, Any]:
    return {**MEMORY, "exporters": {"prometheus": {"prefix": prefix}}}


def test_metrics_are_shown_as_the_exporters_own_are():
    app, _ = application(prometheus("litestar_a"))
    with TestClient(app) as client:
        client.get("/orders/1")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'litestar_a_feature_flag_evaluations_total{flag_key="checkout"' in answer.text


def test_without_an_exporter_there_are_no_metrics():
    with TestClient(application()[0]) as client:
        assert client.get("/metrics").status_code == 404


def test_litestars_own_metrics_and_ours_are_one_page_without_doubles():
    from prometheus_client import REGISTRY

    config = PrometheusConfig(app_name="litestar_b")
    plugin = FlagAnalyticsPlugin(FlagAnalyticsConfig(prometheus("litestar_b"), metrics_path=None))
    app = Litestar([order, PrometheusController], plugins=[plugin], middleware=[config.middleware])
    assert not isinstance(REGISTRY, type(CollectorRegistry)), "both use the library's default registry"
    with TestClient(app) as client:
        client.get("/orders/1")
        text = client.get("/metrics").text
    samples = [line.rpartition(" ")[0] for line in text.splitlines() if line and not line.startswith("#")]
    assert len(samples) == len(set(samples))
    assert any(line.startswith("litestar_b_feature_flag_evaluations_total") for line in samples)
    assert any(line.startswith("litestar_requests_total") for line in samples)


@pytest.mark.parametrize("mount", ["/flags", "/inner/flags"])
def test_page_and_api_are_mounted_and_know_where(mount):
    app, _ = application(dashboard_path=mount, api_path="/analytics", access=ApiOptions(token=TOKEN))
    token = {"authorization": f"Bearer {TOKEN}"}
    with TestClient(app) as client:
        client.get("/orders/1")
        page = client.get(mount, headers=token)
        assert page.status_code == 200
        assert f'data-api="{mount}/api/v1"' in page.text
        assert client.get(f"{mount}/events", headers=token).status_code == 200
        assert client.get(f"{mount}/api/v1/flags", headers=token).json()["flags"][0]["key"] == "checkout"
        assert client.get("/analytics/flags/checkout", headers=token).json()["figures"]["evaluations"] == 1
        assert client.get("/analytics/flags").status_code == 401
        assert client.get(f"{mount}/", follow_redirects=False).headers["location"] == f"{mount}/login"
        style = page.text.partition('rel="stylesheet" href="')[2].partition('"')[0]
        assert client.get(style).status_code == 200


def test_a_page_that_anyone_could_read_is_an_error_outside_of_debug():
    with pytest.raises(ConfigError, match=r"FlagAnalyticsConfig\.access") as raised:
        application(dashboard_path="/flags")
    assert "anyone who reaches the application could read it" in str(raised.value)


def test_in_debug_this_machine_alone_is_answered():
    app, _ = application(debug=True, dashboard_path="/flags")
    with TestClient(app) as client:
        assert client.get("/flags/").status_code == 403  # the test client has no address


def only_staff(connection, _):
    if connection.headers.get("x-staff") != "yes":
        raise NotAuthorizedException


def test_the_applications_guards_decide():
    app, _ = application(prometheus("litestar_c"), dashboard_path="/flags", api_path="/api", guards=[only_staff])
    with TestClient(app) as client:
        for path in ("/flags", "/flags/api/v1/flags", "/api/flags", "/metrics"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"x-staff": "yes"}).status_code == 200


# -- databases and commands --------------------------------------------------------------------------------------------


def test_the_database_of_the_sqlalchemy_plugin_is_used_without_its_engine(tmp_path):
    from advanced_alchemy.extensions.litestar import EngineConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin

    url = f"sqlite+aiosqlite:///{tmp_path}/application.db"
    database = SQLAlchemyAsyncConfig(connection_string=url, engine_config=EngineConfig(connect_args={"timeout": 7.0}))
    options = database_of(database, retention_days=90)
    assert options == {"connection_string": url, "engine": {"connect_args": {"timeout": 7.0}}, "retention_days": 90}
    app, plugin = application({"collectors": {"database": options}}, plugins=[SQLAlchemyPlugin(config=database)])
    with TestClient(app) as client:
        client.get("/orders/1")
        assert client.blocking_portal.call(plugin.pipeline.flush)
        assert client.get("/count?key=checkout").json() == 1


def test_a_database_that_is_only_an_engine_is_refused():
    with pytest.raises(ValueError, match="an engine cannot be shared between event loops"):
        database_of(object())


def test_the_commands_are_there_with_the_applications_configuration(tmp_path: Path):
    (tmp_path / "flags.toml").write_text("[collectors.memory]\n", "utf-8")
    (tmp_path / "app.py").write_text(
        "from litestar import Litestar\n"
        "from flag_analytics_litestar import FlagAnalyticsConfig, FlagAnalyticsPlugin\n"
        "app = Litestar([], plugins=[FlagAnalyticsPlugin(FlagAnalyticsConfig('flags.toml'))])\n",
        "utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "litestar", "flag-analytics", "check"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "memory" in done.stdout
