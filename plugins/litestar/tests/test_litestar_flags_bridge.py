"""litestar-flags as it is: its evaluations are recorded, and all seven questions of its admin API are answered."""

from __future__ import annotations

import pytest
from flag_analytics_litestar import FlagAnalyticsConfig, FlagAnalyticsPlugin
from litestar import Litestar, get
from litestar.di import NamedDependency
from litestar.testing import TestClient
from litestar_flags import EvaluationContext, FeatureFlag, FeatureFlagClient, FeatureFlagsConfig, FeatureFlagsPlugin
from litestar_flags.admin import FeatureFlagsAdminConfig, FeatureFlagsAdminPlugin
from litestar_flags.types import FlagStatus, FlagType

pytestmark = pytest.mark.filterwarnings(
    # What litestar-flags itself does on Litestar 2.25 and SQLAlchemy 2.1.
    "ignore::DeprecationWarning:litestar_flags",
    "ignore::DeprecationWarning:litestar",
    "ignore::litestar.exceptions.LitestarWarning",
)

QUESTIONS = [
    "metrics/checkout",
    "metrics",
    "events",
    "events/checkout",
    "dashboard",
    "trends/checkout",
    "export",
]


def as_admin(app):
    """Let every request come from an administrator: the admin API asks for permissions."""

    async def middleware(scope, receive, send):
        scope["user"] = {"id": "ada", "roles": ["admin"]}
        scope["auth"] = None
        await app(scope, receive, send)

    return middleware


async def make_flag(app):
    """Make the flag."""
    await app.state.feature_flags.storage.create_flag(
        FeatureFlag(
            key="checkout",
            name="Checkout",
            flag_type=FlagType.BOOLEAN,
            status=FlagStatus.ACTIVE,
            default_enabled=True,
            default_value=None,
        )
    )


@get("/checkout")
async def checkout(feature_flags: NamedDependency[FeatureFlagClient]) -> bool:
    return await feature_flags.get_boolean_value("checkout")


def sources(tmp_path):
    return {
        "memory": {"collectors": {"memory": {}}},
        "database": {"collectors": {"database": {"connection_string": f"sqlite:///{tmp_path}/flags.db"}}},
    }


def application(source, *, ours_first):
    ours = FlagAnalyticsPlugin(FlagAnalyticsConfig(source))
    context = EvaluationContext(targeting_key="user-of-the-default-context")
    theirs = FeatureFlagsPlugin(FeatureFlagsConfig(default_context=context))
    admin = FeatureFlagsAdminPlugin(FeatureFlagsAdminConfig(require_auth=False))
    plugins = [ours, theirs, admin] if ours_first else [theirs, admin, ours]
    return Litestar([checkout], plugins=plugins, middleware=[as_admin]), ours


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("kind", ["memory", "database"])
def test_evaluations_are_recorded_and_every_question_is_answered(tmp_path, kind, ours_first):
    app, ours = application(sources(tmp_path)[kind], ours_first=ours_first)
    with TestClient(app) as client:
        client.blocking_portal.call(make_flag, app)
        assert client.get("/checkout").json() is True
        assert client.blocking_portal.call(ours.pipeline.flush)
        for question in QUESTIONS:
            answer = client.get(f"/admin/analytics/{question}")
            assert answer.status_code == 200, (question, answer.text)
            assert "checkout" in answer.text
        assert client.get("/admin/analytics/metrics/checkout").json()["total_evaluations"] == 1
        (event,) = client.get("/admin/analytics/events").json()["events"]
        assert event["targeting_key"] == "user-of-the-default-context"
    assert ours.pipeline is None


def test_one_question_looks_at_the_newest_events_only(tmp_path):
    config = FlagAnalyticsConfig(sources(tmp_path)["database"], most_admin_events=10)
    ours = FlagAnalyticsPlugin(config)
    admin = FeatureFlagsAdminPlugin(FeatureFlagsAdminConfig(require_auth=False))
    app = Litestar(
        [checkout],
        plugins=[FeatureFlagsPlugin(FeatureFlagsConfig()), admin, ours],
        middleware=[as_admin],
    )
    with TestClient(app) as client:
        client.blocking_portal.call(make_flag, app)
        for _ in range(30):
            client.get("/checkout")
        assert client.blocking_portal.call(ours.pipeline.flush)
        assert client.get("/admin/analytics/events").json()["total"] == 10
        assert client.get("/admin/analytics/metrics/checkout").json()["total_evaluations"] == 30


def test_the_bridge_can_be_left_out(tmp_path):
    ours = FlagAnalyticsPlugin(FlagAnalyticsConfig(sources(tmp_path)["memory"], litestar_flags=False))
    app = Litestar([checkout], plugins=[FeatureFlagsPlugin(FeatureFlagsConfig()), ours])
    with TestClient(app) as client:
        client.blocking_portal.call(make_flag, app)
        client.get("/checkout")
        assert ours.pipeline.stats().recorded == 0
