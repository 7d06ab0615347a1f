"""litestar-flags: its client takes a pipeline as its analytics collector."""

import asyncio

from flag_analytics import open_pipeline
from litestar_flags import EvaluationContext, FeatureFlag, FeatureFlagClient, MemoryStorageBackend
from litestar_flags.types import FlagStatus, FlagType

flag = FeatureFlag(
    key="checkout_redesign",
    name="Checkout",
    flag_type=FlagType.BOOLEAN,
    status=FlagStatus.ACTIVE,
    default_enabled=True,
    default_value=None,
)


async def main() -> None:
    storage = MemoryStorageBackend()
    await storage.create_flag(flag)
    async with open_pipeline() as pipeline:
        client = FeatureFlagClient(storage, analytics_collector=pipeline)
        for user in ("user-1", "user-2", "user-3"):
            await client.get_boolean_value("checkout_redesign", context=EvaluationContext(targeting_key=user))


asyncio.run(main())
