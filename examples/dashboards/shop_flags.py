"""The flags of the examples, in memory; an application sets the provider of its flag service instead."""

from openfeature import api
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

api.set_provider(InMemoryProvider({"checkout_redesign": InMemoryFlag("on", {"on": True, "off": False})}))
flags = api.get_client()
