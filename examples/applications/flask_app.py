"""Flask: the pipeline opens with the application, and delivers waiting events when a worker exits."""

from flag_analytics import AnalyticsHook, open_pipeline
from flags import flags
from flask import Flask, request
from openfeature.evaluation_context import EvaluationContext

pipeline = open_pipeline()
flags.add_hooks([AnalyticsHook(pipeline)])
app = Flask(__name__)


@app.get("/checkout")
def checkout() -> dict[str, bool]:
    return {"redesign": flags.get_boolean_value("checkout_redesign", False, EvaluationContext(request.args["user"]))}
