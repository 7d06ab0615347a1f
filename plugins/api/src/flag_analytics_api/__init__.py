"""What feature flags are doing, as a JSON API: one ASGI application over an open pipeline.

::

    app = create_api(pipeline, ApiOptions(token=os.environ["ANALYTICS_TOKEN"]))
"""

from __future__ import annotations

from .access import Access
from .answers import Panel
from .app import create_api
from .headers import SafeHeaders
from .options import ApiOptions
from .problems import ProblemError
from .requests import AsgiRequests, RequestAttributes, WsgiRequests, with_request_attributes

__all__ = [
    "Access",
    "ApiOptions",
    "AsgiRequests",
    "Panel",
    "ProblemError",
    "RequestAttributes",
    "SafeHeaders",
    "WsgiRequests",
    "create_api",
    "with_request_attributes",
]
