"""Celery: each process of the pool opens a pipeline, and closes it when it ends."""

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown
from flag_analytics import AnalyticsHook, Pipeline, open_pipeline
from flags import flags
from openfeature.evaluation_context import EvaluationContext

app = Celery("shop")
pipelines: list[Pipeline] = []


@worker_process_init.connect
def open_in_the_process(**_: object) -> None:
    pipelines.append(open_pipeline())
    flags.add_hooks([AnalyticsHook(pipelines[0])])


@worker_process_shutdown.connect
def close_in_the_process(**_: object) -> None:
    pipelines[0].close_sync()


@app.task
def checkout(user: str) -> bool:
    return flags.get_boolean_value("checkout_redesign", False, EvaluationContext(user))
