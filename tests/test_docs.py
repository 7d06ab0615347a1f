"""Everything a user can name is described: hooks, options, errors, reasons, public names, commands."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import inspect
import io
import json
import re
import sqlite3
import tokenize
import tomllib
from pathlib import Path
from tokenize import COMMENT

import attrs
import flag_analytics
import pytest
from flag_analytics import errors, hookspecs
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing import CollectorContract

DOCS = Path(__file__).parents[1] / "docs"


def load(name):
    """Return a module of the documentation's own extensions, which are in no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS / "_ext")
        spec.loader.exec_module(module)
    return module


attributes = load("attributes")
tables = load("tables")
BACKENDS = dict(attributes.backends())
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md"))}
EVERYTHING = "\n".join(PAGES.values())
RECORDS = {name for name in PAGES if name.startswith("decisions/")} - {"decisions/index.md"}


def hooks():
    return {name: function for name, function in vars(hookspecs).items() if name.startswith("flag_analytics_")}


def documented_hooks():
    return dict(re.findall(r"^## `(\w+)\((.*)\)`$", PAGES["reference/hooks.md"], re.MULTILINE))


def test_every_hook_is_documented_and_no_other():
    assert documented_hooks().keys() == hooks().keys()


@pytest.mark.parametrize("name", hooks())
def test_a_hook_is_documented_with_the_parameters_it_has(name):
    assert documented_hooks()[name] == ", ".join(inspect.signature(hooks()[name]).parameters)


@pytest.mark.parametrize("name", hooks())
def test_a_hookspec_is_one_sentence(name):
    text = inspect.getdoc(hooks()[name])
    assert text.endswith(".")
    assert "\n" not in text


@pytest.mark.parametrize("path", BACKENDS)
def test_a_backends_options_are_in_the_configuration_guide(path):
    assert f"<!-- table: options {path} -->\n" in PAGES["guides/configuration.md"]


@pytest.mark.parametrize("name", PAGES)
def test_the_tables_of_a_page_are_what_the_code_says(name):
    assert PAGES[name] == tables.with_tables(PAGES[name]), "run `uv run python docs/_ext/tables.py`"


def test_a_table_follows_the_docstring(monkeypatch):
    page = "<!-- table: options collectors.memory -->\n<!-- end of table -->\n"
    options = BACKENDS["collectors.memory"].options
    monkeypatch.setattr(options, "__doc__", "Options.\n\nAttributes:\n    max_size: As many | as few.\n")
    assert r"| `max_size` | `int` | `10_000` | As many \| as few. |" in tables.with_tables(page)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_nothing_that_only_sphinx_understands(name):
    shown = re.sub(r"^<!-- site\n.*?^-->$", "", PAGES[name], flags=re.MULTILINE | re.DOTALL)
    assert "```{" not in shown
    assert "{py:" not in shown


def test_a_readme_is_its_page_on_the_site():
    site_only = load("site_only")
    source = "See [it](../../plugins/otel/README.md#options).\n<!-- site\nmore\n-->\n"
    assert site_only.as_site(source) == "See [it](../backends/otel.md#options).\nmore\n\n"


def test_headings_between_marks_are_tabs_of_the_site():
    source = (
        "Choose.\n\n<!-- tabs -->\n#### One\n\n```python\n# a\n```\n\n#### Two\n\nb\n\n<!-- /tabs -->\n\n#### Three\n"
    )
    tabs = ":::{tab-item} One\n\n```python\n# a\n```\n\n:::\n\n:::{tab-item} Two\n\nb\n\n:::\n\n"
    assert load("site_only").with_tabs(source) == f"Choose.\n\n::::{{tab-set}}\n{tabs}::::\n\n#### Three\n"


def test_every_sdk_has_a_tab_in_the_quickstart():
    project = tomllib.loads((DOCS.parent / "plugins/sdks/pyproject.toml").read_text("utf-8"))["project"]
    shown = set(re.findall(r"^pip install \"flag-analytics-sdks\[([\w-]+)\]\"$", PAGES["quickstart.md"], re.MULTILINE))
    assert shown | {"statsig-python-core"} == set(project["optional-dependencies"]) - {"all"}
    headings = re.findall(r"^#### (.+)$", twins.twin(DOCS / "quickstart.md"), re.MULTILINE)
    assert len(headings) == len(shown) + 1


@pytest.mark.parametrize(
    "options",
    [pytest.param(backend.options, id=path) for path, backend in BACKENDS.items()]
    + [pytest.param(DeliveryOptions, id="delivery")],
)
def test_every_option_is_described_in_its_class(options):
    described = attributes.described(options)
    assert {field.name for field in attrs.fields(options) if field.init} == described.keys()


def test_the_reader_of_docstrings_finds_every_entry():
    class Example:
        """One.

        Attributes:
            first: A thing
                in two lines: of them.
            second, third: Others.

        Raises:
            ValueError: never.
        """

    assert attributes.described(Example) == {
        "first": "A thing in two lines: of them.",
        "second": "Others.",
        "third": "Others.",
    }


def test_every_error_is_drawn_in_the_tree():
    classes = {name for name, thing in vars(errors).items() if isinstance(thing, type) and issubclass(thing, Exception)}
    drawn = set(re.findall(r"^\s*(?:[│ ]*[├└]── )?(\w+)", inspect.getdoc(errors), re.MULTILINE))
    assert classes <= drawn
    assert classes <= set(errors.__all__)


def test_every_field_of_an_event_is_described():
    described = attributes.described(FlagEvaluationEvent)
    assert list(described) == [*FlagEvaluationEvent.__struct_fields__]


def test_every_change_of_the_canonical_form_is_listed():
    from flag_analytics import canonical

    source = inspect.getsource(canonical)
    counted = set(re.findall(r'changes\["(\w+)"\]', source)) | set(re.findall(r"Counter\((\w+)=1\)", source))
    table = inspect.getdoc(canonical).split("=" * 10)[2:]
    listed = set(re.findall(r"\w+", " ".join(line[:18] for part in table for line in part.splitlines())))
    assert counted <= listed


def test_every_reason_is_an_upper_case_word():
    assert all(reason.value == reason.name for reason in EvaluationReason)


@pytest.mark.parametrize("name", sorted(set(flag_analytics.__all__)))
def test_every_public_name_can_be_imported_and_is_explained(name):
    thing = getattr(flag_analytics, name)
    if isinstance(thing, type) or callable(thing):
        assert inspect.getdoc(thing), f"{name} has no docstring"


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("AnalyticsAggregator", "analytics.aggregator"),
        ("DatabaseAnalyticsCollector", "analytics.collectors.database"),
        ("FlagEvaluationEvent", "analytics.models"),
        ("FlagMetrics", "analytics.aggregator"),
        ("InMemoryAnalyticsCollector", "analytics.collectors.memory"),
        ("OTelAnalyticsExporter", "analytics.exporters.otel"),
        ("OTelHook", "contrib.otel"),
        ("PrometheusExporter", "analytics.exporters.prometheus"),
    ],
)
def test_the_guide_to_moving_names_every_attribute_that_is_not_here(name, theirs):
    reference = getattr(pytest.importorskip(f"litestar_flags.{theirs}"), name)
    ours = getattr(flag_analytics, name)
    here = {*dir(ours), *re.findall(r"self\.(\w+) = ", inspect.getsource(ours))}
    missing = {each for each in dir(reference) if not each.startswith("_")} - here
    table = PAGES["guides/migration.md"].partition("### Attributes\n")[2]
    rows = re.findall(rf"^\| [^|]*`{name}`[^|]* \| (.*?) \|", table, re.MULTILINE)
    named = {each for row in rows for each in re.findall(r"`(\w+)(?:\(\))?`", row)}
    assert rows
    assert named == missing


def test_every_test_that_a_page_names_exists():
    named = set(re.findall(r"`(test_\w+)`", EVERYTHING))
    root = DOCS.parent
    sources = [*(root / "core").rglob("*.py"), *root.glob("plugins/*/tests/*.py"), *(root / "tests").rglob("*.py")]
    defined = set(re.findall(r"def (test_\w+)", "\n".join(path.read_text("utf-8") for path in sources)))
    assert named
    assert named <= defined


def listed_modules():
    """Return the public names of each module that the API reference lists."""
    rows = re.findall(r"^\| `(flag_analytics[\w.]*)` \| .* \| (.*) \|$", PAGES["reference/api.md"], re.MULTILINE)
    return {module: set(re.findall(r"`(\w+)`", names)) for module, names in rows}


def test_the_site_describes_every_module_that_the_api_reference_lists():
    described = set(re.findall(r"^\.\. automodule:: (\S+)$", EVERYTHING, re.MULTILINE))
    assert described | {"flag_analytics"} == listed_modules().keys()


def test_every_plugin_has_a_page():
    plugins = {path.parent.name for path in DOCS.parent.glob("plugins/*/pyproject.toml")}
    assert {
        name.removeprefix("backends/").removesuffix(".md") for name in PAGES if name.startswith("backends/")
    } == plugins


def test_every_page_is_reachable():
    listed = set(re.findall(r"^([\w/]+)$", PAGES["index.md"], re.MULTILINE))
    linked = set(re.findall(r"\]\(([\w/]+\.md)\)", PAGES["index.md"]))
    assert linked == set(PAGES) - {"index.md"} - RECORDS == {f"{name}.md" for name in listed}


def test_the_index_of_decisions_lists_every_record_once():
    linked = re.findall(r"\]\((\d{4}-[a-z0-9-]+\.md)\)", PAGES["decisions/index.md"])
    assert sorted(f"decisions/{name}" for name in linked) == sorted(RECORDS)
    assert len({name[:4] for name in linked}) == len(linked), "a number stands for one record"


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_decision_has_number_date_context_decision_and_consequences(name):
    number = int(name.removeprefix("decisions/")[:4])
    assert re.match(rf"# {number}\. .+\n\nDate: 20\d\d-\d\d-\d\d\n", PAGES[name])
    assert re.findall(r"^## (.*)$", PAGES[name], re.MULTILINE) == ["Context", "Decision", "Consequences"]


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_somewhere(name):
    here = (DOCS / name).parent
    targets = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", PAGES[name])
    assert not [target for target in targets if not (here / target).exists()]


def test_links_of_the_readme_lead_somewhere():
    root = DOCS.parent
    targets = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", (root / "README.md").read_text("utf-8"))
    assert not [target for target in targets if not (root / target).exists()]


def test_every_command_is_described_in_the_readme_of_the_command_line():
    from flag_analytics_cli.main import build_app

    readme = (DOCS.parent / "plugins" / "cli" / "README.md").read_text("utf-8")
    commands = [name for name in build_app() if not name.startswith("-")]
    assert {"check", "demo", "import", "plugins", "report"} <= set(commands)
    assert not [name for name in commands if f"flag-analytics {name}" not in readme]


@pytest.mark.parametrize("file", ["pyproject.toml", "src/third_party_jsonl/plugin.py", "tests/test_jsonl.py"])
def test_the_plugin_of_the_guide_is_the_one_in_the_examples(file):
    code = (DOCS.parent / "examples" / "third_party_jsonl" / file).read_text("utf-8")
    assert f"\n{code}```\n" in PAGES["guides/plugins.md"]


class TestTheSinkOfTheGuide(CollectorContract):
    """What the guide says of connections and forks is enough for the kit."""

    idempotent = True

    @pytest.fixture
    def collector(self, tmp_path):
        (code,) = re.findall(
            r"^```python\n(import os\nimport sqlite3\n.*?)^```$", PAGES["guides/plugins.md"], re.MULTILINE | re.DOTALL
        )
        namespace = {"__name__": "guide"}
        exec(code, namespace)
        return namespace["SqliteSink"](tmp_path / "events.db")

    async def stored(self, collector):
        with contextlib.closing(sqlite3.connect(collector.path)) as connection:
            rows = (
                connection.execute("SELECT event FROM events ORDER BY rowid") if collector.path.stat().st_size else []
            )
            return [FlagEvaluationEvent.from_dict(json.loads(event)) for (event,) in rows]


def test_the_plugin_of_the_readme_is_the_one_in_the_examples():
    example = DOCS.parent / "examples" / "third_party_jsonl" / "src" / "third_party_jsonl" / "plugin.py"
    _, _, code = example.read_text("utf-8").partition("import json\n")
    assert "import json\n" + code in (DOCS.parent / "README.md").read_text("utf-8")


twins = load("markdown_twins")


@pytest.mark.parametrize("name", PAGES)
def test_a_twin_of_a_page_is_plain_markdown(name):
    twin = twins.twin(DOCS / name)
    assert twin.startswith("# ")
    assert "```{" not in twin
    assert not re.search(r"^<!--", twin, re.MULTILINE)


@pytest.mark.parametrize("name", PAGES)
def test_links_of_a_twin_lead_to_other_twins(name):
    here = (DOCS / name).parent
    targets = re.findall(r"\]\(([^)#:]+\.md)(?:#[\w-]+)?\)", twins.twin(DOCS / name))
    assert {(here / target).resolve().relative_to(DOCS).as_posix() for target in targets} <= set(PAGES)


def test_the_twin_of_the_api_page_has_the_docstrings():
    assert "#### `FlagEvaluationEvent(timestamp, flag_key, value, reason, " in twins.twin(DOCS / "reference" / "api.md")


def test_llms_txt_lists_every_page_once():
    listed = re.findall(r"^- \[[^\]]+\]\(([\w/-]+\.md)\)", twins.llms_txt(DOCS), re.MULTILINE)
    assert sorted(listed) == sorted(set(PAGES) - {"index.md"})


VAGUE = re.compile(
    r"\b(?:whoever|nobody|somebody|anybody|befell|gone processes|that is none|nor would|normal form|discretion)\b",
    re.IGNORECASE,
)
TEXTS = [
    *DOCS.rglob("*.md"),
    *(
        DOCS.parent / place
        for place in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "core/README.md")
    ),
    *(path for pattern in ("plugins/*/README.md", "changelog.d/*.md") for path in DOCS.parent.glob(pattern)),
]


@pytest.mark.parametrize("path", sorted(TEXTS), ids=lambda path: path.relative_to(DOCS.parent).as_posix())
def test_a_page_is_in_plain_english(path):
    assert VAGUE.findall(path.read_text("utf-8")) == []


def wording(path):
    """Return the comments and docstrings of a module, as one text."""
    source = path.read_text("utf-8")
    comments = [
        token.string for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == COMMENT
    ]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    return "\n".join([*comments, *docstrings])


@pytest.mark.parametrize("place", ["core", "benchmarks", "docs", "examples", "plugins", "tests"])
def test_comments_and_docstrings_are_in_plain_english(place):
    modules = (DOCS.parent / place).rglob("*.py")
    found = {path.relative_to(DOCS.parent).as_posix(): VAGUE.findall(wording(path)) for path in modules}
    assert {path: words for path, words in found.items() if words} == {}
