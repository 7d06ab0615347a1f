"""Django in one file: in a project, open the pipeline in ``ready`` of an ``AppConfig``."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from flag_analytics import AnalyticsHook, open_pipeline
from flags import flags
from openfeature.evaluation_context import EvaluationContext

pipeline = open_pipeline()
flags.add_hooks([AnalyticsHook(pipeline)])


def checkout(request: HttpRequest) -> JsonResponse:
    context = EvaluationContext(request.GET["user"])
    return JsonResponse({"redesign": flags.get_boolean_value("checkout_redesign", False, context)})


urlpatterns = [path("checkout", checkout)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY="only-for-this-example")
app = get_wsgi_application()
