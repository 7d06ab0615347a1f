"""flagd: its OpenFeature provider, here with flags of a file instead of a server."""

from flag_analytics import AnalyticsHook, open_pipeline
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext

api.set_provider(FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path="flags.json"))

with open_pipeline() as pipeline:
    api.add_hooks([AnalyticsHook(pipeline)])
    for user in ("user-1", "user-2", "user-3"):
        api.get_client().get_boolean_value("checkout_redesign", False, EvaluationContext(user))

api.shutdown()
