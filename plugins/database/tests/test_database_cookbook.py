"""The queries of the analysts' guide answer on every database as the guide says."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "analysis.md").read_text("utf-8")
FAMILIES = {"SQLite": "sqlite", "PostgreSQL": "postgresql", "MySQL": "mysql"}


def queries(family):
    """Yield each query for this database with the rows that the guide shows."""
    for block in re.findall(r"^```sql\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL):
        named = re.match(r"-- ((?:\w+(?:, )?)+)\n", block)
        if named is None or family in {FAMILIES[name] for name in named[1].split(", ")}:
            statement, _, below = block.partition(";\n")
            yield statement, [tuple(row.split(" | ")) for row in re.findall(r"^-- (.*)$", below, re.MULTILINE)]


def shown(value):
    if value is None:
        return "NULL"
    if isinstance(value, float | Decimal):
        return f"{float(value):g}"
    return re.sub(r"(?:\.0+)?(?:\+00:00)?$", "", str(value)) if "-" in str(value) and ":" in str(value) else str(value)


async def test_every_query_answers_as_the_guide_says(database, monkeypatch):
    (sample,) = re.findall(r"^## Sample data\n.*?^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    monkeypatch.setenv("ANALYTICS_URL", database.connection_string)
    exec(compile(sample, "analysis.md", "exec"), {"__name__": "guide"})
    asked = list(queries(database.family))
    assert len(asked) >= 10
    for statement, expected in asked:
        rows = [tuple(map(shown, row)) for row in await database.run(statement.replace(":", r"\:"))]
        assert rows == expected, statement
