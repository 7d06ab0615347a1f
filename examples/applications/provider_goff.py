"""GO Feature Flag: its relay proxy speaks OFREP, OpenFeature's remote evaluation protocol."""

import os

from flag_analytics import AnalyticsHook, open_pipeline
from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

api.set_provider(OFREPProvider(os.environ["RELAY_PROXY"]))

with open_pipeline() as pipeline:
    api.add_hooks([AnalyticsHook(pipeline)])
    for user in ("user-1", "user-2", "user-3"):
        api.get_client().get_boolean_value("checkout_redesign", False, EvaluationContext(user))

api.shutdown()
