"""Calls of plugins: order, deadlines, traces, and messages about failures."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import traceback
from textwrap import dedent

import pytest
from flag_analytics import plugin_calls
from flag_analytics.errors import PluginError, SourceError
from flag_analytics.pipeline import open_pipeline

LISTENER = """
    import heard
    from flag_analytics import hookimpl

    @hookimpl{options}
    def flag_analytics_pipeline_started(pipeline): heard.order.append(__name__)
"""
READER = """
    import heard
    from flag_analytics import hookimpl

    class Source:
        name = __name__
        async def summarise(self, flag_keys, window, **options): return {{}}
        async def list_flags(self, window, **options): return []
        async def count_steps(self, flag_key, window, step_seconds, **options): return {{}}
        async def get_exposures(self, flag_key, window, **options): raise NotImplementedError
        async def count_future(self, now): return 0

    @hookimpl{options}
    def flag_analytics_event_source(source):
        heard.order.append(__name__)
        return {answer}
"""
SINK = """
    import attrs
    from flag_analytics import Backend, hookimpl

    @attrs.frozen
    class Options:
        token: str = attrs.field(default="", repr=False, metadata={{"secret": True}})

    class Sink:
        async def write(self, batch): pass

    def create(options):
        {create}

    @hookimpl
    def flag_analytics_register_collectors():
        return [Backend("sink", Options, {factory})]
"""


@pytest.fixture
def order(site):
    """Return the names of the modules whose hooks were called."""
    (site.path / "heard.py").write_text("order = []\n")
    import heard

    return heard.order


def install(site, *sources, **named):
    """Install one distribution for each module source, as plugin a, b, …"""
    for name, source in [*zip("abcdef", sources, strict=False), *named.items()]:
        site.add(f"acme-{name}", points={name: f"acme_{name}"}, modules={f"acme_{name}": source})
    return site.registry(timeout_seconds=20.0)


def opened(site, create, factory="create", **table):
    """Return the error of a collector whose ``create`` has this body."""
    site.add("acme", points={"sink": "acme_sink"}, modules={"acme_sink": SINK.format(create=create, factory=factory)})
    with pytest.raises((PluginError, ValueError)) as caught:
        open_pipeline({"collectors": {"sink": table}}, environ={}, registry=site.registry())
    return caught.value


# --- pluggy's order


def test_plugins_are_called_last_registered_first_but_for_tryfirst_and_trylast(site, order):
    marks = ("", "(trylast=True)", "", "(tryfirst=True)", "")
    registry = install(site, *(LISTENER.format(options=mark) for mark in marks))
    registry.pipeline_started(None, ["a", "b", "c", "d", "e"])
    assert order == ["acme_d", "acme_e", "acme_c", "acme_a", "acme_b"]


def test_the_order_holds_among_the_named_plugins_alone(site, order):
    registry = install(site, *(LISTENER.format(options="") for _ in range(3)))
    for name in "abc":
        registry.load(name)
    registry.pipeline_started(None, ["a", "c"])
    assert order == ["acme_c", "acme_a"]


def test_the_first_answer_ends_a_firstresult_hook(site, order):
    readers = (("Source()", ""), ("None", "(tryfirst=True)"), ("Source()", "(trylast=True)"))
    registry = install(site, *(READER.format(answer=answer, options=mark) for answer, mark in readers))
    for name in "abc":
        registry.load(name)
    assert registry.event_source_for(object()).name == "acme_a"
    assert order == ["acme_b", "acme_a"]


def test_a_reader_that_raises_or_returns_another_object_is_named_and_skipped(site, order):
    readers = ("1 / 0", "'garbage'", "Source()")
    registry = install(site, *(READER.format(answer=answer, options="(tryfirst=True)") for answer in readers))
    for name in "bac":
        registry.load(name)
    assert registry.event_source_for(object()).name == "acme_c"
    (site.path / "acme_c.py").unlink()
    registry = site.registry()
    for name in "ab":
        registry.load(name)
    with pytest.raises(SourceError) as caught:
        registry.event_source_for(object())
    assert "plugin 'a' of acme-a 1.2: flag_analytics_event_source failed: ZeroDivisionError" in str(caught.value)
    assert "plugin 'b' of acme-b 1.2 answered with str" in str(caught.value)


def test_several_implementations_in_one_module_are_all_called(site, order):
    module = """
        import heard
        from flag_analytics import hookimpl

        @hookimpl(specname="flag_analytics_pipeline_started")
        def one(): heard.order.append("one")

        @hookimpl(specname="flag_analytics_pipeline_started", tryfirst=True)
        def two(): heard.order.append("two")
    """
    install(site, module).pipeline_started(None, ["a"])
    assert order == ["two", "one"]


def test_a_hook_of_a_later_core_is_ignored_if_it_says_that_it_is_optional(site, order):
    module = LISTENER.format(options="") + "    @hookimpl(optionalhook=True)\n    def flag_analytics_later(): pass\n"
    install(site, module).pipeline_started(None, ["a"])
    assert order == ["acme_a"]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("def flag_analytics_pipeline_started(pipelin): pass", "(pipelin) has unknown parameters: expected"),
        (
            "def flag_analytics_delivery_failed(error, letters): pass",
            "expected flag_analytics_delivery_failed(sink, err",
        ),
        ("def flag_analytics_cli(*, app): pass", None),
        ("def flag_analytics_cli(app, more=None): pass", None),
    ],
)
def test_a_wrong_signature_is_refused_with_the_right_one(site, function, expected):
    registry = install(site, f"from flag_analytics import hookimpl\n@hookimpl\n{function}")
    if expected is None:
        assert registry.load("a")
        return
    with pytest.raises(PluginError) as caught:
        registry.load("a")
    assert expected in str(caught.value)


# --- deadlines


HANG = "import threading; threading.current_thread().gate = gate = threading.Event(); gate.wait(30)"


@pytest.fixture
def no_hanging_thread():
    """Let the threads that hang go on, and wait for their end."""
    yield
    for thread in threading.enumerate():
        if hasattr(thread, "gate"):
            thread.gate.set()
            thread.join()


@pytest.mark.usefixtures("no_hanging_thread")
def test_a_hook_that_hangs_is_given_up_and_named(site, caplog):
    module = f"""
        from flag_analytics import hookimpl

        @hookimpl
        def flag_analytics_pipeline_started(pipeline):
            {HANG}
    """
    install(site, module)
    site.registry(timeout_seconds=0.05).pipeline_started(None, ["a"])
    assert "plugin 'a' of acme-a 1.2: flag_analytics_pipeline_started failed: it has not" in caplog.text


@pytest.mark.usefixtures("no_hanging_thread")
def test_a_create_that_hangs_is_given_up_and_named(site, monkeypatch):
    monkeypatch.setattr(plugin_calls, "TIMEOUT_SECONDS", 0.05)
    error = opened(site, HANG)
    assert "plugin 'sink' of acme 1.2: create of collectors.sink failed: it has not ended" in str(error)


def test_code_of_plugins_runs_in_the_context_of_its_caller(site):
    import contextvars

    variable = contextvars.ContextVar("variable", default="nothing")
    token = variable.set("of the caller")
    try:
        assert plugin_calls.call_plugin("plugin", "step", variable.get) == "of the caller"
    finally:
        variable.reset(token)


def test_an_interrupt_is_let_through():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plugin_calls.call_plugin("plugin", "step", interrupt)


# --- create


@pytest.mark.parametrize(
    ("create", "expected"),
    [
        ("return Sink", "create of collectors.sink returned the class Sink, expected an instance of it"),
        ("return None", "returned None, expected an object with write, or with record, flush and close"),
        ("return Sink().write(None)", "returned coroutine, expected an object with write"),
        ("return object()", "returned object, expected an object with write"),
        (
            "return type('S', (), {'write_batch': print, 'writes': lambda self: 5})()",
            "with writes: did you mean write?",
        ),
        ("return type('S', (Sink,), {'pings': lambda self: 5})()", "returned S with pings: did you mean ping?"),
        (
            "return type('S', (Sink,), {'write_dead_letter': lambda self: 5})()",
            "with write_dead_letter: did you mean write_dead_letters?",
        ),
    ],
)
def test_a_create_that_returns_another_object_is_refused_with_its_distribution(site, create, expected):
    message = str(opened(site, create))
    assert message.startswith("plugin 'sink' of acme 1.2: create of collectors.sink returned ")
    assert expected in message


@pytest.mark.parametrize("factory", ["lambda: Sink()", "lambda options, more: Sink()", "lambda *, options: Sink()"])
def test_a_create_that_takes_other_arguments_is_refused_before_it_is_called(site, factory):
    message = str(opened(site, "pass", factory))
    assert "create of 'sink' is wrong: expected a plain function create(options), and it has (" in message
    assert "acme 1.2" in message


def test_a_failing_create_is_named_with_file_and_line(site):
    message = str(opened(site, "import json; json.loads('{')"))
    line = SINK.partition("{create}")[0].count("\n") + 1
    assert "create of collectors.sink failed: JSONDecodeError: Expecting property name" in message
    assert re.search(rf"\({re.escape(str(site.path))}.acme_sink\.py:{line}\)", message)


def test_words_of_a_plugin_are_not_quoted_where_a_secret_option_is_set_but_for_its_own_errors(site):
    assert "ValueError (" in str(opened(site, "raise ValueError('no such host: left')", token="left:right"))
    other = type(site)(site.path.parent / "other")
    other.path.mkdir()
    sys.modules.pop("acme_sink")
    sys.path.insert(0, str(other.path))
    try:
        create = "from flag_analytics.errors import PluginError; raise PluginError('port 5 is in use: choose another')"
        assert "failed: port 5 is in use: choose another (" in str(opened(other, create, token="left:right"))
    finally:
        sys.path.remove(str(other.path))
        sys.modules.pop("acme_sink")


# --- messages


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (
            {"acme_a": "import no_such_driver"},
            "the module 'no_such_driver' is missing, a dependency of acme_a: install",
        ),
        (
            {"acme_a": "import acme_library", "acme_library": "\n\nimport no_such_codec"},
            "the module 'no_such_codec' is missing, a dependency of acme_library: install it (",
        ),
        ({}, "the module 'acme_a' is missing: install it"),
        ({"acme_a": "from flag_analytics import later_name"}, "ImportError: cannot import name 'later_name'"),
        ({"acme_a": "def f(:"}, "SyntaxError: invalid syntax (acme_a.py, line 1)"),
    ],
)
def test_an_import_that_fails_names_the_missing_module_and_the_file(site, modules, expected):
    site.add("acme", points={"a": "acme_a"}, modules=modules)
    with pytest.raises(PluginError) as caught:
        site.registry().load("a")
    message = str(caught.value)
    assert message.startswith("plugin 'a' of acme 1.2: import failed: ")
    assert expected in message
    if "acme_library" in modules:
        assert "acme_library.py:3)" in message


def test_debugging_shows_the_traceback_of_a_plugin_but_no_secret(site, monkeypatch):
    monkeypatch.setenv("FLAG_ANALYTICS_DEBUG", "1")
    error = opened(site, "raise ValueError(options.token)", token="CANARY-and-more")
    assert 'acme_sink.py", line' in str(error)
    assert "raise ValueError(options.token)" in str(error)
    assert "CANARY" not in "".join(traceback.format_exception(error))


def test_tracing_prints_which_plugin_is_asked_what(site):
    site.add(
        "acme",
        points={"sink": "acme_sink"},
        modules={"acme_sink": SINK.format(create="return Sink()", factory="create")},
    )
    program = f"""
        import sys
        sys.path.insert(0, {str(site.path)!r})
        from flag_analytics import open_pipeline
        from flag_analytics.registry import Registry
        registry = Registry([{str(site.path)!r}])
        open_pipeline({{"collectors": {{"sink": {{}}}}}}, environ={{}}, registry=registry).close_sync()
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(program)],
        env={"FLAG_ANALYTICS_TRACE_PLUGINS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr.splitlines() == [
        "flag-analytics asks plugin 'sink' of acme 1.2: import",
        "flag-analytics asks plugin 'sink' of acme 1.2: flag_analytics_register_collectors",
        "flag-analytics asks plugin 'sink' of acme 1.2: create of collectors.sink",
    ]


# --- versions


@pytest.mark.parametrize(
    ("requires", "expected"),
    [
        (("flag-analytics>=99.1",), "plugin 'a' of acme 1.2 needs flag-analytics>=99.1, and has "),
        (("Flag.Analytics<0.0.1",), "needs flag-analytics<0.0.1, and has "),
        (("flag-analytics>=99; python_version<'3'",), None),
        (("flag-analytics>=99; extra == 'later'",), None),
        (("flag-analytics>=0.0.1.dev1", "flag-analytics-memory>=99"), None),
    ],
)
def test_a_plugin_for_another_core_is_refused_before_its_import(site, requires, expected):
    module = "1 / 0" if expected else LISTENER.format(options="").replace("import heard", "")
    site.add("acme", points={"a": "acme_a"}, modules={"acme_a": dedent(module)}, requires=requires)
    if expected is None:
        assert site.registry().load("a")
        return
    with pytest.raises(PluginError) as caught:
        site.registry().load("a")
    assert expected in str(caught.value)
    assert str(caught.value).endswith(": run `pip install -U flag-analytics acme`")
    assert "acme_a" not in sys.modules


def test_a_plugin_for_a_later_version_of_the_api_is_refused(site):
    module = "PLUGIN_API = 2\n" + dedent(LISTENER.format(options="").replace("import heard", ""))
    with pytest.raises(
        PluginError, match=r"is for version 2 of the plugin API, and flag-analytics [\d.]+ has 1: upgrade"
    ):
        install(site, module).load("a")
