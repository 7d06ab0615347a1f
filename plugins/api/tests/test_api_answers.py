"""What the API answers: the aggregator's own figures, within bounds, with what is missing from them."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from flag_analytics import AnalyticsAggregator, BadBatch, InMemoryAnalyticsCollector, open_pipeline
from flag_analytics_api import ApiOptions, create_api
from hypothesis import given
from hypothesis import strategies as st

HOSTILE_KEYS = [
    "<img src=x onerror=alert(1)>",
    "a/b",
    "",
    ".",
    "..",
    "~tilde",
    "%2e%2e",
    "ünï",
    "a b&c=d",
    "a\nb",
    "?#",
]


def path_of(key: str) -> str:
    return "~" + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


async def test_figures_are_those_of_the_aggregator(client, record, pipeline):
    for number in range(200):
        record(
            variant="on" if number % 3 else "off",
            targeting_key=f"user-{number % 50}",
            reason="ERROR" if number % 20 == 0 else "SPLIT",
            evaluation_duration_ms=float(number),
        )
    async with client() as local:
        answer = (await local.get("/flags/checkout?window=1h")).json()
    metrics = await pipeline.aggregator.get_flag_metrics("checkout", 3600)
    exposures = await pipeline.aggregator.get_exposures("checkout", 3600)
    figures = answer["figures"]
    assert figures["evaluations"] == metrics.total_evaluations == 200
    assert figures["users"] == metrics.unique_users == 50
    assert figures["error_rate"] == metrics.error_rate == 5.0
    assert figures["latency_p99"] == metrics.latency_p99
    assert figures["variants"] == metrics.variant_distribution
    assert figures["variant_users"] == metrics.variant_users
    assert figures["reasons"] == metrics.reason_distribution
    assert figures["crossover_users"] == metrics.crossover_users
    assert answer["exposure"]["users"] == exposures.users
    shown = {one["variant"]: one["users"] for one in answer["exposure"]["variants"]}
    assert shown == exposures.first_variant_users
    assert (answer["exact"], answer["estimated"], answer["error_bound"]) == (True, False, None)


async def test_intervals_of_users_by_variant_are_wilsons(client, record):
    for number in range(10):
        record(variant="on" if number < 3 else "off", targeting_key=f"user-{number}")
    async with client() as local:
        variants = (await local.get("/flags/checkout")).json()["exposure"]["variants"]
    on = next(one for one in variants if one["variant"] == "on")
    # scipy.stats.binomtest(3, 10).proportion_ci(method="wilson")
    assert (on["share"], round(on["low"], 4), round(on["high"], 4)) == (30.0, 10.7791, 60.3222)


def record_purchases(record, *, of_control=20, of_treatment=60, **fields):
    for number in range(200):
        variant = "treatment" if number % 2 else "control"
        record(targeting_key=f"user-{number}", variant=variant, age=10, **fields)
        if number // 2 < (of_treatment if number % 2 else of_control):
            record("purchase", targeting_key=f"user-{number}", kind="outcome", variant=None, value=9.5, age=5)


async def test_outcomes_are_those_of_the_aggregator(client, record, pipeline):
    record_purchases(record)
    async with client() as local:
        answer = (await local.get("/flags/checkout/outcomes?outcome=purchase")).json()
        listed = (await local.get("/flags")).json()
    found = await pipeline.aggregator.get_outcomes("checkout", "purchase", 3600)
    assert (answer["key"], answer["outcome"], answer["control"]) == ("checkout", "purchase", "control")
    assert (answer["doubts"], answer["crossover_users"]) == ([], 0)
    control, treatment = answer["variants"]
    assert (control["variant"], treatment["variant"]) == ("control", "treatment")
    assert (control["users"], control["converted_users"], control["difference"]) == (100, 20, None)
    assert (treatment["rate"], treatment["value_sum"], treatment["value_mean"]) == (60.0, 570.0, 9.5)
    assert [treatment["low"], treatment["high"]] == [end * 100 for end in found.variants["treatment"].rate_interval]
    difference = found.differences("control")["treatment"]
    assert treatment["difference"] == {
        "points": difference.difference * 100, "low": difference.low * 100, "high": difference.high * 100,
        "significant": True,
    }  # fmt: skip
    assert [one["key"] for one in listed["flags"]] == ["checkout"]


async def test_a_verdict_is_refused_where_arms_do_not_match_the_plan(client, record):
    record_purchases(record)
    path = "/flags/checkout/outcomes?outcome=purchase"
    async with client() as local:
        planned = (await local.get(f"{path}&expect=control=5&expect=treatment=5.0&control=treatment")).json()
        other = (await local.get(f"{path}&expect=control=90&expect=treatment=10")).json()
    assert (planned["control"], planned["doubts"]) == ("treatment", [])
    assert planned["variants"][1]["difference"]["points"] == -40.0
    (doubt,) = other["doubts"]
    assert "do not match the plan" in doubt
    assert [one["difference"] for one in other["variants"]] == [None, None]


async def test_a_filter_of_outcomes_is_about_exposures(client, record):
    record_purchases(record, reason="SPLIT")
    async with client() as local:
        some = (await local.get("/flags/checkout/outcomes?outcome=purchase&variant=treatment")).json()
        none = (await local.get("/flags/checkout/outcomes?outcome=purchase&reason=ERROR")).json()
    assert [(one["variant"], one["converted_users"]) for one in some["variants"]] == [("treatment", 60)]
    assert "fewer than two variants" in some["doubts"][0]
    assert (none["variants"], none["control"]) == ([], None)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("", "outcome"), ("outcome=purchase&expect=control", "expect"), ("outcome=purchase&expect=control=0", "expect")],
)
async def test_a_question_about_outcomes_that_is_incomplete_is_a_problem(client, query, parameter):
    async with client() as local:
        answer = await local.get(f"/flags/checkout/outcomes?{query}")
    assert (answer.status_code, answer.json()["parameter"]) == (400, parameter)


async def test_a_control_that_no_user_saw_is_a_problem(client, record):
    record_purchases(record)
    async with client() as local:
        answer = await local.get("/flags/checkout/outcomes?outcome=purchase&control=elsewhere")
    assert answer.status_code == 400
    assert "expected a control of control, treatment" in answer.json()["detail"]


async def test_sampled_events_are_counted_back_and_called_estimated(client, record):
    for number in range(10):
        record(sample_rate=0.1, targeting_key=f"user-{number}")
    async with client() as local:
        for path in ("/flags", "/flags/checkout", "/flags/checkout/series", "/events"):
            answer = (await local.get(path)).json()
            assert (answer["estimated"], answer["exact"]) == (True, False)
        assert (await local.get("/flags")).json()["flags"][0]["count"] == 100


async def test_a_list_of_flags_is_searched_sorted_and_paged(client, record):
    for number in range(25):
        for _ in range(number + 1):
            record(f"flag-{number:02}", age=float(number))
    record("Other")
    async with client() as local:
        for sort, order in {
            "key": [f"flag-{n:02}" for n in range(25)],
            "-key": [f"flag-{n:02}" for n in reversed(range(25))],
            "count": [f"flag-{n:02}" for n in range(25)],
            "-count": [f"flag-{n:02}" for n in reversed(range(25))],
            "last_seen": [f"flag-{n:02}" for n in reversed(range(25))],
            "-last_seen": [f"flag-{n:02}" for n in range(25)],
        }.items():
            found, cursor = [], ""
            while cursor is not None:
                query = {"search": "FLAG-", "sort": sort, "limit": 7, "cursor": cursor}
                answer = (await local.get("/flags", params=query)).json()
                assert answer["total"] == 25
                found += [flag["key"] for flag in answer["flags"]]
                cursor = answer["next_cursor"]
            assert found == order, sort


async def test_a_page_of_flags_shows_users_errors_and_latency_in_full_detail_only(client, record):
    record("bad", reason="ERROR", targeting_key="u", evaluation_duration_ms=7.0)
    record("old", age=3_000.0)
    async with client() as local:
        few = {one["key"]: one for one in (await local.get("/flags")).json()["flags"]}
        full = {one["key"]: one for one in (await local.get("/flags?detail=full")).json()["flags"]}
    assert few["bad"]["users"] is None
    assert (full["bad"]["users"], full["bad"]["error_rate"], full["bad"]["latency_p99"]) == (1, 100.0, 7.0)
    assert {key: one["status"] for key, one in full.items()} == {"bad": "failing", "old": "quiet"}
    assert sum(full["old"]["series"]) == 1


async def test_a_series_adds_up_to_the_flags_count_and_its_last_step_is_unfinished(client, record):
    for age in (0.0, 10.0, 100.0, 1_000.0, 3_000.0):
        record(age=age, variant="on" if age < 50 else "off")
    async with client() as local:
        plain = (await local.get("/flags/checkout/series?window=1h&step=5m")).json()
        grouped = (await local.get("/flags/checkout/series?window=1h&step=5m&group_by=variant")).json()
    steps = plain["lines"][0]["steps"]
    assert sum(step["count"] for step in steps) == 5
    assert [step["unfinished"] for step in steps[-2:]] == [False, True]
    assert all(datetime.fromisoformat(step["start"]).minute % 5 == 0 for step in steps)
    counted = {line["group"]: sum(step["count"] for step in line["steps"]) for line in grouped["lines"]}
    assert counted == {"off": 3, "on": 2}


async def test_a_series_of_all_time_begins_with_the_first_event(client, record):
    record(age=86_400.0 * 3)
    record()
    async with client() as local:
        answer = (await local.get("/flags/checkout/series?window=all")).json()
        nothing = (await local.get("/flags/unknown/series?window=all")).json()
    counts = [step["count"] for step in answer["lines"][0]["steps"]]
    assert (counts[0], sum(counts)) == (1, 2)
    assert nothing["lines"][0]["steps"] == []


async def test_every_event_comes_once_over_all_pages_the_newest_first(client, record):
    events = [record(age=float(number // 7)) for number in range(100)]
    async with client() as local:
        found, cursor = [], ""
        while cursor is not None:
            answer = (await local.get("/events", params={"limit": 9, "cursor": cursor})).json()
            found += answer["events"]
            cursor = answer["next_cursor"]
    assert Counter(one["id"] for one in found) == Counter(event.event_id for event in events)
    times = [one["at"] for one in found]
    assert times == sorted(times, reverse=True)


async def test_events_of_one_moment_are_paged_as_well(client, pipeline):
    from flag_analytics import FlagEvaluationEvent

    moment = datetime.now(UTC) - timedelta(seconds=5)
    for _ in range(50):
        pipeline.record_nowait(FlagEvaluationEvent(moment, "checkout", True, "SPLIT"))
    async with client() as local:
        found, cursor = [], ""
        while cursor is not None:
            answer = (await local.get("/events", params={"limit": 7, "cursor": cursor})).json()
            found += [one["id"] for one in answer["events"]]
            cursor = answer["next_cursor"]
    assert len(found) == len(set(found)) == 50


async def test_people_are_shown_only_where_the_options_say_so(client, record):
    record(targeting_key="ada@example.org", context_attributes={"plan": "gold", "environment": "live"})
    async with client() as hidden:
        for path in ("/events", "/events?format=csv", "/events?format=jsonl"):
            text = (await hidden.get(path)).text
            assert "ada" not in text
            assert "gold" not in text
            assert "live" in text
        for query in ("user=ada@example.org", "where=plan=gold"):
            assert (await hidden.get(f"/events?{query}")).status_code == 403
        for path in ("/flags/checkout", "/flags/checkout/series"):
            assert (await hidden.get(f"{path}?group_by=context.plan")).status_code == 403
        assert (await hidden.get("/flags/checkout?group_by=context.environment")).status_code == 200
    async with client(loopback=True, show_people=True) as shown:
        (event,) = (await shown.get("/events?user=ada@example.org&where=plan=gold")).json()["events"]
        assert (event["user"], event["context"]) == ("ada@example.org", {"plan": "gold", "environment": "live"})
        groups = (await shown.get("/flags/checkout?group_by=context.plan")).json()["groups"]
        assert groups["gold"]["evaluations"] == 1


async def test_an_export_has_every_event_and_no_cell_that_a_spreadsheet_would_run(client, record):
    for number in range(1_200):
        record("=HYPERLINK(evil)" if number % 2 else "plain", age=0.001 * number)
    async with client() as local:
        table = await local.get("/events?format=csv")
        lines = await local.get("/events?format=jsonl&flag=plain")
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert Counter(row["flag"] for row in rows) == {"'=HYPERLINK(evil)": 600, "plain": 600}
    assert table.headers["content-disposition"] == 'attachment; filename="events.csv"'
    assert len({json.loads(line)["id"] for line in lines.text.splitlines()}) == 600


async def test_an_export_is_bounded(client, record):
    for _ in range(30):
        record()
    async with client(loopback=True, max_export_events=20) as local:
        assert len((await local.get("/events?format=jsonl")).text.splitlines()) == 20


@pytest.mark.parametrize("form", ["flags", "flags/checkout/series"])
async def test_tables_and_charts_can_be_had_as_csv(client, record, form):
    record()
    async with client() as local:
        rows = list(csv.DictReader(io.StringIO((await local.get(f"/{form}?format=csv")).text)))
    assert sum(int(row["count"]) for row in rows) == 1


@pytest.mark.parametrize("key", HOSTILE_KEYS)
async def test_a_flag_with_any_key_can_be_asked_for(client, record, key):
    record(key)
    async with client() as local:
        listed = (await local.get("/flags")).json()["flags"][0]["key"]
        for path in (f"/flags/{path_of(key)}", f"/flags/{path_of(key)}/series"):
            answer = await local.get(path)
            assert answer.status_code == 200
            assert answer.json()["key"] == listed
        assert (await local.get(f"/flags/{path_of(key)}")).json()["figures"]["evaluations"] == 1


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/flags?limit=0", "limit"),
        ("/flags?limit=101", "limit"),
        ("/flags?limit=1&limit=2", "limit"),
        ("/flags?sort=size", "sort"),
        ("/flags?window=-1h", "window"),
        ("/flags?window=999999w", "window"),
        ("/flags?until=yesterday", "until"),
        ("/flags?until=2026-01-01T00:00:00", "until"),
        ("/flags?until=0001-01-01T00:00:00Z", "until"),
        ("/flags?cursor=%21%21", "cursor"),
        ("/flags?cursor=WzFd", "cursor"),
        ("/flags?nonsense=1", "nonsense"),
        ("/flags?where=plan", "where"),
        ("/flags?kind=click", "kind"),
        ("/flags/x?group_by=users", "group_by"),
        ("/flags/x?group_by=variant&groups=51", "groups"),
        ("/flags/~!!", "key"),
        ("/flags/x/series?step=0s", "step"),
        ("/flags/x/series?window=365d&step=1s", "step"),
        ("/events?limit=501", "limit"),
        ("/events?cursor=WzEsICJhIiwgOTk5OTk5XQ", "cursor"),
        ("/health?x=1", "x"),
    ],
)
async def test_a_parameter_out_of_bounds_is_a_problem_that_names_it_and_what_was_expected(client, path, parameter):
    async with client() as local:
        answer = await local.get(path)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["parameter"] == parameter
    assert problem["expected"]


@given(st.text(max_size=40), st.text(max_size=40))
async def test_no_query_is_answered_with_a_server_error(name, value):
    import httpx

    async with open_pipeline({"collectors": {"memory": {}}}, environ={}) as pipeline:
        transport = httpx.ASGITransport(create_api(pipeline, ApiOptions(guarded=True)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as local:
            for path in ("/flags", "/flags/x/series", "/events"):
                for names in (name, "cursor", "until", "window", "where", "search"):
                    assert (await local.get(path, params={names: value})).status_code < 500


async def test_what_the_ledger_lost_is_said_for_the_windows_it_is_missing_from(record):
    import httpx

    memory = InMemoryAnalyticsCollector()

    class Storing:
        event_source = memory

        async def write(self, batch):
            good = [event for event in batch if event.flag_key != "bad"]
            for event in good:
                memory.record_nowait(event)
            bad = {event.event_id: "bad" for event in batch if event.flag_key == "bad"}
            if bad:
                raise BadBatch(refused=bad, stored=[event.event_id for event in good])

        def get_events(self, *arguments, **named):
            return memory.get_events(*arguments, **named)

    from flag_analytics import Backend
    from flag_analytics.config.plan import Plan, PlannedSink
    from flag_analytics_memory.plugin import MemoryOptions

    backend = Backend("storing", MemoryOptions, lambda _: Storing())
    plan = Plan("test", (PlannedSink("storing", "collector", backend, MemoryOptions()),))
    async with open_pipeline(plan) as pipeline:
        transport = httpx.ASGITransport(create_api(pipeline, ApiOptions(guarded=True, cache_seconds=0.0)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as local:
            assert (await local.get("/flags")).json()["loss"]["events"] == 0
            for key in ("good", "bad", "bad"):
                record(key, over=pipeline)
            await pipeline.flush()
            answer = (await local.get("/flags")).json()
            assert answer["loss"]["reasons"] == {"refused": 2}
            assert answer["loss"]["events"] == 2
            delivery = (await local.get("/delivery")).json()
            assert (delivery["sinks"]["storing"]["refused"], delivery["balanced"]) == (2, True)
            assert [letter["events"] for letter in delivery["dead_letters"]] == [2]


async def test_a_window_that_began_after_the_loss_has_none(client, pipeline):
    from flag_analytics_api.losses import Losses

    class Ledger:
        """A pipeline of which the ledger is what the test says."""

        collectors = pipeline.collectors
        aggregator = pipeline.aggregator
        lost = 0

        def health(self):
            return {"sinks": {"memory": {"dropped": self.lost, "dead": 0}}}

        def stats(self):
            import attrs

            stats = pipeline.stats()
            sinks = {"memory": attrs.evolve(stats.sinks["memory"], dropped={"overflow": self.lost})}
            return attrs.evolve(stats, sinks=sinks)

    ledger = Ledger()
    losses = Losses(ledger)
    losses.look()
    ledger.lost = 5
    losses.look()
    after = datetime.now(UTC)
    assert (await losses.within(after, pipeline.event_source)).events == 0
    assert (await losses.within(after - timedelta(hours=1), pipeline.event_source)).events == 5
    assert (await losses.within(None, pipeline.event_source)).since is None


async def test_a_source_that_has_forgotten_the_oldest_events_says_from_when_on_it_knows(record):
    import httpx

    async with open_pipeline({"collectors": {"memory": {"max_size": 10}}}, environ={}) as pipeline:
        recorded = [record(over=pipeline, age=float(age)) for age in range(20, 0, -1)]
        transport = httpx.ASGITransport(create_api(pipeline, ApiOptions(guarded=True)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as local:
            hour = (await local.get("/flags?window=1h")).json()["loss"]["complete_from"]
            moment = (await local.get("/flags?window=5s")).json()["loss"]["complete_from"]
    assert datetime.fromisoformat(hour) == recorded[10].timestamp
    assert moment is None


async def test_a_pipeline_that_keeps_no_events_says_what_to_configure(client):
    exporting = {"exporters": {"prometheus": {"prefix": "no_events"}}}
    async with open_pipeline(exporting, environ={}) as pipeline, client(over=pipeline) as local:
        answer = await local.get("/flags")
        delivery = await local.get("/delivery")
    assert answer.status_code == 501
    assert "add one that keeps them" in answer.json()["detail"]
    assert delivery.status_code == 200


async def test_health_is_200_while_the_pipeline_is_open_and_503_when_it_is_closed(client, pipeline):
    async with client() as local:
        assert (await local.get("/health")).json()["status"] == "ok"
        await pipeline.close()
        answer = await local.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "closed")


async def test_the_parts_of_the_pipeline_are_shown_without_any_text_of_their_options(client):
    import httpx
    from flag_analytics import read_config

    plan = read_config(
        {"collectors": {"database": {"connection_string": "sqlite:///secret-name.db", "batch_size": 7}}}, environ={}
    )
    async with open_pipeline(plan) as pipeline:
        app = create_api(pipeline, ApiOptions(guarded=True), plan=plan)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as local:
            answer = await local.get("/plugins")
    (part,) = answer.json()["parts"]
    assert (part["options"]["batch_size"], part["options"]["connection_string"]) == (7, "***")
    assert "secret-name" not in answer.text
    assert "database" in {one["name"] for one in answer.json()["installed"]}


class SlowSource(InMemoryAnalyticsCollector):
    """Answers when the test lets it."""

    def __init__(self):
        super().__init__()
        self.asked = 0
        self.was_asked = asyncio.Event()
        self.go = asyncio.Event()

    async def list_flags(self, window, *, where=None):
        self.asked += 1
        self.was_asked.set()
        await self.go.wait()
        return await super().list_flags(window, where=where)


@pytest.fixture
def slow(pipeline):
    source = SlowSource()
    pipeline.collectors["memory"] = source
    pipeline._aggregator = AnalyticsAggregator(source)
    return source


async def test_equal_questions_at_one_time_are_asked_once(client, slow):
    async with client() as local:
        asking = [asyncio.create_task(local.get("/flags")) for _ in range(20)]
        await slow.was_asked.wait()
        slow.go.set()
        answers = await asyncio.gather(*asking)
        again = await local.get("/flags")
    assert slow.asked == 1
    assert len({answer.content for answer in [*answers, again]}) == 1


async def test_a_question_that_takes_too_long_is_ended(client, slow):
    async with client(loopback=True, question_timeout_seconds=0.05) as local:
        answer = await local.get("/flags")
    assert answer.status_code == 504
    assert "ask for a shorter window" in answer.json()["detail"]


async def test_questions_beyond_those_that_may_wait_are_refused_at_once(client, slow):
    async with client(loopback=True, max_questions=1) as local:
        asking = [asyncio.create_task(local.get(f"/flags?limit={number + 1}")) for number in range(80)]
        refused = [answer for one in asyncio.as_completed(asking[:80]) if (answer := await _first(one, slow)) == 503]
    assert len(refused) == 80 - 64


async def _first(one, slow):
    answer = await one
    # Those that are refused are answered first; then the others may go on.
    slow.go.set()
    return answer.status_code
