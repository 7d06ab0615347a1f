"""Plugins: found by metadata, loaded by name, each failure isolated and explained."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import threading
from textwrap import dedent

import pytest
from flag_analytics.errors import PluginError, PluginNotInstalledError, SourceError
from flag_analytics.registry import Registry

COLLECTOR = """
    import attrs
    from flag_analytics import Backend, hookimpl

    @attrs.frozen
    class Options:
        path: str = "events"

    @hookimpl
    def flag_analytics_register_collectors():
        return [Backend("files", Options, lambda options: object())]
"""
READER = """
    from flag_analytics import hookimpl

    class Source:
        def __init__(self, session): self.session = session
        async def summarise(self, flag_keys, window, **options): return {}
        async def get_exposures(self, flag_key, window, **options): return None
        async def list_flags(self, window, **options): return []
        async def count_steps(self, flag_key, window, step_seconds, **options): return {}
        async def get_exposures(self, flag_key, window, **options): raise NotImplementedError
        async def count_future(self, now): return 0

    @hookimpl
    def flag_analytics_event_source(source):
        return Source(source) if type(source).__name__.endswith("Session") else None
"""
BROKEN = "raise RuntimeError('no such library: libacme.so.3')"


def error_of(registry, name):
    with pytest.raises(PluginError) as caught:
        registry.load(name)
    return str(caught.value)


# --- finding


def test_finding_plugins_imports_none_of_them(site):
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": BROKEN})
    registry = site.registry()
    (plugin,) = registry.installed()["files"]
    assert (plugin.name, plugin.module, plugin.distribution, plugin.version) == (
        "files",
        "acme_files",
        "acme-files",
        "1.2",
    )
    assert "acme_files" not in sys.modules


def test_names_are_sorted_whatever_the_order_on_disk(site):
    for name in ("zeta", "alpha", "mid"):
        site.add(f"acme-{name}", points={name: f"acme_{name}"})
    assert list(site.registry().installed()) == ["alpha", "mid", "zeta"]


def test_entry_points_of_other_groups_are_not_plugins(site):
    site.add("acme-files", points={"files": "acme_files"})
    assert "x" not in site.registry().installed()


def test_damaged_metadata_of_one_distribution_hides_no_other_plugin(site, caplog):
    site.add("acme-files", points={"files": "acme_files"})
    (site.path / "bad_dist-1.0.dist-info").mkdir()
    (site.path / "bad_dist-1.0.dist-info" / "entry_points.txt").write_bytes(b"[flag_analytics]\n\xff\xfe=\xff")
    assert list(site.registry().installed()) == ["files"]
    assert "the metadata of a distribution cannot be read: UnicodeDecodeError" in caplog.text


def test_a_second_copy_of_a_distribution_further_on_the_path_is_not_another_plugin(site, tmp_path):
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": COLLECTOR})
    other = type(site)(tmp_path / "other")
    other.path.mkdir()
    other.add("Acme.Files", points={"files": "acme_files"}, version="0.9")
    registry = Registry([str(site.path), str(other.path)])
    assert [plugin.version for plugin in registry.installed()["files"]] == ["1.2"]
    assert registry.load("files").__name__ == "acme_files"


def test_a_plugin_that_is_installed_later_is_found_without_a_restart(site):
    registry = site.registry()
    with pytest.raises(PluginNotInstalledError):
        registry.load("files")
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": COLLECTOR})
    assert registry.load("files").__name__ == "acme_files"


# --- loading: each failure has its own message


@pytest.mark.parametrize("name", ["database", "memory", "otel", "prometheus"])
def test_a_known_backend_that_is_missing_is_named_with_its_pip_install_line(site, name):
    with pytest.raises(PluginNotInstalledError, match=f"run `pip install flag-analytics-{name}`") as caught:
        site.registry().load(name)
    assert isinstance(caught.value, ImportError)


def test_a_misspelled_plugin_gets_a_suggestion_and_the_installed_names(site):
    site.add("acme-files", points={"files": "acme_files"})
    message = error_of(site.registry(), "flies")
    assert "'flies'" in message
    assert "did you mean 'files'?" in message
    assert "installed are: files" in message


def test_a_misspelled_backend_that_is_not_installed_gets_its_install_line(site):
    message = error_of(site.registry(), "promethues")
    assert "did you mean 'prometheus'?" in message
    assert "pip install flag-analytics-prometheus" in message


def test_two_distributions_with_one_name_are_an_error_only_once_the_name_is_used(site):
    site.add("acme-files", points={"files": "acme_files", "fine": "acme_fine"}, modules={"acme_fine": COLLECTOR})
    site.add("other-files", points={"files": "other_files"}, version="3.0")
    registry = site.registry()
    registry.load("fine")
    message = error_of(registry, "files")
    assert "acme-files 1.2" in message
    assert "other-files 3.0" in message
    assert "uninstall" in message


def test_a_plugin_that_takes_the_name_of_another_backend_never_stands_in_for_it(site):
    """Installing a distribution does not redirect the events of another one to it."""
    site.add("flag-analytics-memory", points={"memory": "real_memory"}, modules={"real_memory": COLLECTOR})
    site.add("acme-files", points={"memory": "acme_memory", "files": "acme_files"}, modules={"acme_files": COLLECTOR})
    (site.path / "acme_memory.py").write_text(BROKEN)
    registry = site.registry()
    for _ in range(2):
        message = error_of(registry, "memory")
        assert "flag-analytics-memory 1.2" in message
        assert "acme-files 1.2" in message
    assert registry.load("files").__name__ == "acme_files"
    assert not {"real_memory", "acme_memory"} & sys.modules.keys()


def test_a_plugin_whose_import_raises_names_its_distribution_and_the_reason(site):
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": BROKEN})
    with pytest.raises(PluginError, match="libacme") as caught:
        site.registry().load("files")
    assert "plugin 'files' of acme-files 1.2" in str(caught.value)
    assert "RuntimeError: no such library" in str(caught.value)
    assert "RuntimeError" in str(caught.value.__cause__)
    assert caught.value.__cause__.__traceback__ is not None


def test_a_plugin_with_a_missing_dependency_is_not_reported_as_missing(site):
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": "import no_such_driver_at_all"})
    with pytest.raises(PluginError, match="no_such_driver_at_all") as caught:
        site.registry().load("files")
    assert not isinstance(caught.value, PluginNotInstalledError)


def test_a_plugin_that_exits_does_not_end_the_application(site):
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": "import sys; sys.exit(3)"})
    assert "SystemExit: 3" in error_of(site.registry(), "files")


def test_output_of_an_import_goes_to_standard_error(site, capsys):
    site.add(
        "acme-files", points={"files": "acme_files"}, modules={"acme_files": "print('loading…')\n" + dedent(COLLECTOR)}
    )
    site.registry().load("files")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "loading…" in captured.err


def test_a_plugin_that_hangs_is_given_up_and_standard_output_comes_back(site, capsys):
    module = "import threading; threading.current_thread().gate = gate = threading.Event(); gate.wait(30)"
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": module})
    message = error_of(site.registry(timeout_seconds=0.05), "files")
    assert "has not ended after 0.05 seconds" in message
    sys.stdout.write("still here\n")
    assert capsys.readouterr().out == "still here\n"
    (thread,) = (thread for thread in threading.enumerate() if hasattr(thread, "gate"))
    thread.gate.set()
    thread.join()


def test_an_application_may_open_its_pipeline_while_its_own_package_is_still_being_imported(site):
    package = site.path / "acme_app"
    package.mkdir()
    (package / "__init__.py").write_text(
        dedent(f"""
        from flag_analytics.registry import Registry
        Registry([{str(site.path)!r}], timeout_seconds=5).load("own")
        """)
    )
    (package / "plugin.py").write_text(dedent(COLLECTOR))
    site.add("acme-app", points={"own": "acme_app.plugin"})
    import acme_app

    assert acme_app.plugin.Options().path == "events"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1", "no function marked with @hookimpl"),
        ("def flag_analytics_register_collectors(): return []", "no function marked with @hookimpl"),
        (
            "@hookimpl\ndef flag_analytics_register_colectors(): pass",
            "mean flag_analytics_register_collectors?",
        ),
        ("@hookimpl\ndef flag_analytics_xyz(): pass", "there is no hook flag_analytics_xyz"),
        ("@hookimpl\ndef quite_another_thing(): pass", "known are flag_analytics_register_collectors"),
        ("@hookimpl\nasync def flag_analytics_register_collectors(): pass", "is async; hooks are plain functions"),
        ("@hookimpl\ndef flag_analytics_register_collectors(extra): pass", "extra"),
        ("@hookimpl(wrapper=True)\ndef flag_analytics_register_collectors(): yield", "is a wrapper"),
    ],
)
def test_an_invalid_plugin_module_is_refused_each_time(site, source, expected):
    module = f"from flag_analytics import hookimpl\n{source}"
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": module})
    site.add("good", points={"good": "good_plugin"}, modules={"good_plugin": COLLECTOR})
    registry = site.registry()
    for _ in range(2):  # the second time too: a refused plugin leaves no trace
        message = error_of(registry, "files")
        assert expected in message
        assert "acme-files 1.2" in message
    assert registry.load("good").__name__ == "good_plugin"


def test_an_entry_point_that_names_an_object_in_place_of_a_module_is_refused(site):
    site.add("acme-files", points={"files": "acme_files:Plugin"}, modules={"acme_files": "class Plugin: pass"})
    assert "must name a module" in error_of(site.registry(), "files")


def test_one_module_under_two_names_is_loaded_under_both(site):
    site.add("acme-files", points={"files": "acme_files", "jsonl": "acme_files"}, modules={"acme_files": COLLECTOR})
    registry = site.registry()
    assert registry.load("files") is registry.load("jsonl")
    assert registry.backend("collector", "jsonl").name == "files"


def test_a_secret_in_the_words_of_a_broken_plugin_is_masked_in_the_whole_chain(site):
    module = """
        try:
            raise ValueError("cannot open postgresql://app:CANARY@db/x?password=CANARY2")
        except ValueError as error:
            raise RuntimeError("no connection to https://u:CANARY@h/") from error
    """
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": module})
    with pytest.raises(PluginError) as caught:
        site.registry().load("files")
    error = caught.value
    words = []
    while error is not None:
        words += [repr(error), pickle.dumps(error).decode("latin-1")]
        error = error.__cause__ or error.__context__
    assert len(words) == 6
    assert not any("CANARY" in text for text in words)


# --- backends


def test_a_backend_is_found_by_the_name_of_its_entry_point(site):
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": COLLECTOR})
    backend = site.registry().backend("collector", "files")
    assert backend.name == "files"
    assert backend.options().path == "events"


def test_a_collector_that_is_named_as_an_exporter_gets_the_right_table(site):
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": COLLECTOR})
    with pytest.raises(PluginError, match=r"is a collector, not an exporter: use \[collectors\.files\]"):
        site.registry().backend("exporter", "files")


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("None", "offers no collector"),
        ("5", "returned int, expected a sequence of Backend"),
        ("['files']", "expected a sequence of Backend"),
        ("[Backend('files', dict, print)]", "expected an attrs class"),
        ("[Backend('files', Options, 5)]", "expected a plain function create(options)"),
        ("[Backend('files', Options, create)]", "expected a plain function create(options)"),
        ("[Backend('files', Options, lambda: None)]", "expected a plain function create(options), and it has ()"),
        ("[Backend('files', Mutable, print)]", "write attrs.field(factory=list)"),
        ("[ProcessorFactory('files', Options, print)]", "returned list, expected a sequence of Backend"),
        ("create(None)", "returned coroutine, expected a sequence of Backend"),
        ("1 / 0", "ZeroDivisionError"),
        ("exit(4)", "SystemExit"),
        ("[Backend('a', Options, print), Backend('b', Options, print)]", "offers the collectors 'a', 'b' and none"),
        ("[]", "offers no collector"),
    ],
)
def test_an_invalid_result_of_a_hook_is_refused_with_the_expected_type(site, returned, expected):
    module = f"""
        import attrs
        from flag_analytics import Backend, ProcessorFactory, hookimpl

        @attrs.frozen
        class Options: pass

        @attrs.frozen
        class Mutable:
            names: list = []

        async def create(options): pass

        @hookimpl
        def flag_analytics_register_collectors(): return {returned}
    """
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": module})
    with pytest.raises(PluginError, match=r"acme-files 1\.2") as caught:
        site.registry().backend("collector", "files")
    assert expected in str(caught.value)


def test_a_registration_hook_is_called_once(site):
    module = """
        from flag_analytics import hookimpl
        calls = []

        @hookimpl
        def flag_analytics_register_collectors():
            calls.append(1)
            return []
    """
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": module})
    registry = site.registry()
    for _ in range(2):
        with pytest.raises(PluginError, match="offers no collector"):
            registry.backend("collector", "files")
    assert registry.load("files").calls == [1]


# --- life cycle


def test_a_plugin_that_raises_in_a_hook_does_not_silence_the_others(site, caplog):
    listener = """
        from flag_analytics import hookimpl
        calls = []

        @hookimpl
        def flag_analytics_pipeline_started(pipeline): calls.append(pipeline)

        @hookimpl
        def flag_analytics_delivery_failed(error, sink): calls.append((sink, error))
    """
    raising = """
        from flag_analytics import hookimpl

        @hookimpl
        def flag_analytics_pipeline_started(pipeline): raise __import__("flag_analytics").BadBatch("CANARY")

        @hookimpl
        def flag_analytics_delivery_failed(sink): raise SystemExit("CANARY")
    """
    for name, source in (("a", listener), ("b", raising), ("c", listener)):
        site.add(f"acme-{name}", points={name: f"acme_{name}"}, modules={f"acme_{name}": source})
    registry = site.registry()
    with caplog.at_level(logging.DEBUG):
        registry.pipeline_started("pipeline", ["a", "b", "c"])
        registry.delivery_failed("memory", "ValueError", [], ["a", "b", "c"])
    assert registry.load("a").calls == registry.load("c").calls == ["pipeline", ("memory", "ValueError")]
    assert "plugin 'b' of acme-b 1.2: flag_analytics_pipeline_started failed: BadBatch" in caplog.text
    assert "acme_b.py:5" in caplog.text
    assert "CANARY" not in caplog.text


def test_a_hook_is_called_for_the_plugins_of_the_pipeline_only(site):
    module = """
        from flag_analytics import hookimpl
        calls = []

        @hookimpl
        def flag_analytics_pipeline_closing(pipeline): calls.append(pipeline)
    """
    site.add("acme", points={"a": "acme_a", "b": "acme_b"}, modules={"acme_a": module, "acme_b": module})
    registry = site.registry()
    registry.load("b")
    registry.pipeline_closing("pipeline", ["a"])
    assert registry.load("a").calls == ["pipeline"]
    assert registry.load("b").calls == []


def test_a_module_under_two_names_is_called_once(site):
    module = """
        from flag_analytics import hookimpl
        calls = []

        @hookimpl
        def flag_analytics_pipeline_started(pipeline): calls.append(pipeline)

        @hookimpl
        def flag_analytics_cli(app): app.append(__name__)
    """
    site.add("acme", points={"a": "acme_a", "b": "acme_a"}, modules={"acme_a": module})
    registry = site.registry()
    registry.pipeline_started("pipeline", ["a", "b"])
    assert registry.load("a").calls == ["pipeline"]
    commands = []
    assert registry.add_commands(commands, registry.installed(), print) == ()
    assert commands == ["acme_a"]


def test_commands_get_the_way_to_read_the_plan(site):
    module = """
        from flag_analytics import hookimpl

        @hookimpl
        def flag_analytics_cli(app, read_plan): app.append(read_plan)
    """
    site.add("acme", points={"a": "acme_a"}, modules={"acme_a": module})
    commands = []
    assert site.registry().add_commands(commands, ["a"], print) == ()
    assert commands == [print]


def test_commands_of_healthy_plugins_are_added_though_another_one_is_broken(site):
    module = """
        from flag_analytics import hookimpl

        @hookimpl
        def flag_analytics_cli(app): app.append(__name__)
    """
    site.add("acme", points={"a": "acme_a", "b": "acme_b"}, modules={"acme_a": module, "acme_b": BROKEN})
    commands = []
    (problem,) = site.registry().add_commands(commands, ["a", "b"], print)
    assert commands == ["acme_a"]
    assert "plugin 'b' of acme 1.2" in str(problem)


# --- event sources


def session_of(module):
    return type("AsyncSession", (), {"__module__": module})()


def test_an_object_that_answers_by_itself_loads_no_plugin(site):
    site.add("acme-reader", points={"reader": "acme_reader"}, modules={"acme_reader": READER}, requires=("acme-db",))
    registry = site.registry()
    source = registry.event_source_for(_source(site, registry))
    assert registry.event_source_for(source) is source
    facade = type("Facade", (), {"event_source": source, "__module__": "nowhere"})()
    assert site.registry().event_source_for(facade) is source


def _source(site, registry):
    return registry.event_source_for(session_of("acme_db.orm"))


def test_a_plugin_is_asked_about_objects_of_a_package_that_it_depends_on(site):
    site.add("acme-reader", points={"reader": "acme_reader"}, modules={"acme_reader": READER}, requires=("Acme.DB>=2",))
    site.add("bystander", points={"bystander": "bystander"}, modules={"bystander": BROKEN})
    session = session_of("acme_db.orm")
    assert site.registry().event_source_for(session).session is session
    assert "bystander" not in sys.modules


def test_no_further_plugin_is_loaded_once_one_has_answered(site, monkeypatch):
    site.add("acme-reader", points={"reader": "acme_reader"}, modules={"acme_reader": READER}, requires=("acme-db",))
    site.add("later", points={"zeta": "later"}, modules={"later": BROKEN}, requires=("acme-db",))
    monkeypatch.setattr("importlib_metadata.packages_distributions", lambda: pytest.fail("reads all metadata"))
    assert site.registry().event_source_for(session_of("acme_db.orm"))
    assert "later" not in sys.modules


def test_a_subclass_in_the_application_is_recognised_by_its_bases(site):
    site.add("acme-reader", points={"reader": "acme_reader"}, modules={"acme_reader": READER}, requires=("acme-db",))
    session = type("OurSession", (type(session_of("acme_db.orm")),), {"__module__": "application.db"})()
    assert site.registry().event_source_for(session).session is session


def test_a_plugin_that_is_loaded_is_asked_about_anything(site):
    site.add("acme-reader", points={"reader": "acme_reader"}, modules={"acme_reader": READER})
    registry = site.registry()
    with pytest.raises(SourceError):
        registry.event_source_for(session_of("unrelated"))
    registry.load("reader")
    assert registry.event_source_for(session_of("unrelated")).session


def test_an_unknown_object_is_named_with_the_expected_types(site):
    with pytest.raises(SourceError, match=r"cannot read events from somewhere\.AsyncSession: expected") as caught:
        site.registry().event_source_for(session_of("somewhere"))
    assert isinstance(caught.value, TypeError)


def test_a_database_session_without_the_database_plugin_gets_its_install_line(site):
    with pytest.raises(SourceError, match="pip install flag-analytics-database"):
        site.registry().event_source_for(session_of("sqlalchemy.ext.asyncio.session"))


def test_a_broken_plugin_that_could_read_the_object_is_named(site):
    site.add("acme-reader", points={"reader": "acme_reader"}, modules={"acme_reader": BROKEN}, requires=("acme-db",))
    with pytest.raises(SourceError, match=r"plugin 'reader' of acme-reader 1\.2: import failed"):
        site.registry().event_source_for(session_of("acme_db"))


# --- roles


def test_the_roles_of_a_plugin_are_the_hooks_that_it_implements(site):
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": COLLECTOR + READER})
    assert site.registry().roles("files") == ("collector", "event source")


def test_asking_for_roles_finds_a_plugin_whose_offers_are_broken(site):
    module = COLLECTOR.replace("return [Backend", "return 5, [Backend")
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": module})
    with pytest.raises(PluginError, match="expected a sequence of Backend"):
        site.registry().roles("files")


# --- the process


def test_many_threads_that_load_one_plugin_get_one_module(site):
    site.add(
        "acme-files",
        points={"files": "acme_files"},
        modules={"acme_files": "import time; time.sleep(0.02)\n" + dedent(COLLECTOR)},
    )
    registry = site.registry()
    found = []
    threads = [threading.Thread(target=lambda: found.append(registry.backend("collector", "files"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_a_child_forked_while_a_plugin_is_being_loaded_can_load_plugins(site):
    site.add("slow", points={"slow": "slow_plugin"}, modules={"slow_plugin": "import time; time.sleep(30)"})
    site.add("acme-files", points={"files": "acme_files"}, modules={"acme_files": COLLECTOR})
    program = f"""
        import os, sys, threading, time
        sys.path.insert(0, {str(site.path)!r})
        from flag_analytics.registry import Registry
        registry = Registry([{str(site.path)!r}])
        threading.Thread(target=lambda: registry.load("slow"), daemon=True).start()
        while "slow_plugin" not in sys.modules:
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            os._exit(0 if registry.load("files") else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os._exit(0)
    """
    done = subprocess.run([sys.executable, "-c", dedent(program)], timeout=20, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
