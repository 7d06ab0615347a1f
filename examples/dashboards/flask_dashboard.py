"""Flask: metrics inside, and the page beside it with `flag-analytics serve`, over the same database."""

from flag_analytics import AnalyticsHook, open_pipeline
from flag_analytics_api import WsgiRequests
from flag_analytics_prometheus import wsgi_app
from flask import Flask
from openfeature.evaluation_context import EvaluationContext
from shop_flags import flags
from werkzeug.middleware.dispatcher import DispatcherMiddleware

pipeline = open_pipeline()
flags.add_hooks([AnalyticsHook(pipeline)])
app = Flask(__name__)


@app.get("/checkout/<user>")
def checkout(user: str) -> dict[str, bool]:
    return {"redesign": flags.get_boolean_value("checkout_redesign", False, EvaluationContext(user))}


inside = WsgiRequests(app.wsgi_app, environment="example", release="1")
app.wsgi_app = DispatcherMiddleware(inside, {"/metrics": wsgi_app(pipeline.exporters["prometheus"])})
