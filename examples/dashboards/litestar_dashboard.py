"""Litestar with litestar-flags: one plugin brings pipeline, page and metrics, and records every evaluation."""

import os

from flag_analytics_api import ApiOptions
from flag_analytics_litestar import FlagAnalyticsConfig, FlagAnalyticsPlugin
from litestar import Litestar, get
from litestar.config.app import AppConfig
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins import InitPlugin
from litestar_flags import EvaluationContext, FeatureFlag, FeatureFlagClient, FeatureFlagsConfig, FeatureFlagsPlugin
from litestar_flags.types import FlagStatus, FlagType

REDESIGN = {"key": "checkout_redesign", "name": "Checkout", "flag_type": FlagType.BOOLEAN, "status": FlagStatus.ACTIVE}


class FirstFlag(InitPlugin):
    """Makes the flag, which an application's administrators would make."""

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        app_config.on_startup.append(self.make)
        return app_config

    async def make(self, app: Litestar) -> None:
        await app.state.feature_flags.storage.create_flag(
            FeatureFlag(**REDESIGN, default_enabled=True, default_value=None)
        )


@get("/checkout/{user:str}")
async def checkout(user: FromPath[str], feature_flags: NamedDependency[FeatureFlagClient]) -> dict[str, bool]:
    context = EvaluationContext(targeting_key=user)
    return {"redesign": await feature_flags.get_boolean_value("checkout_redesign", context=context)}


analytics = FlagAnalyticsConfig(
    dashboard_path="/flag-analytics",
    access=ApiOptions(token=os.environ["ANALYTICS_TOKEN"]),
    environment="example",
    release="1",
)
app = Litestar(
    [checkout], plugins=[FeatureFlagsPlugin(FeatureFlagsConfig()), FirstFlag(), FlagAnalyticsPlugin(analytics)]
)
