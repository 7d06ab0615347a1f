"""What holds for the repository as a whole: its distributions, their bounds and imports, and what no file may hold."""

from __future__ import annotations

import ast
import importlib.metadata
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CORE = ROOT / "core"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
DISTRIBUTIONS = [CORE, *PLUGINS]
MAX_LINES = {"core": 5_500, "delivery": 3_100}
"""Lines of code, without the conformance kit; a higher limit needs a decision record that names what came in."""

MAY_IMPORT = {
    "dashboard": {"flag_analytics_api"},
    "litestar": {"flag_analytics_api", "flag_analytics_dashboard", "flag_analytics_prometheus"},
}
"""What a plugin may import besides core; one that is not here is a backend, and never imports another backend."""

each_distribution = pytest.mark.parametrize("path", DISTRIBUTIONS, ids=lambda path: path.name)
each_plugin = pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.name)


def project_of(path: Path) -> dict[str, Any]:
    return tomllib.loads((path / "pyproject.toml").read_text("utf-8"))["project"]


def package_of(path: Path) -> Path:
    (package,) = (child for child in (path / "src").iterdir() if (child / "__init__.py").exists())
    return package


def requirements_of(path: Path) -> list[Requirement]:
    """Return what a distribution needs, its extras' needs included."""
    project = project_of(path)
    optional = project.get("optional-dependencies", {}).values()
    return [Requirement(text) for text in [*project["dependencies"], *(text for extra in optional for text in extra)]]


def workspace() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


# -- metadata ----------------------------------------------------------------------------------------------------------


@each_distribution
def test_a_distribution_is_typed_licensed_and_described(path):
    project = project_of(path)
    assert (package_of(path) / "py.typed").exists()
    assert (path / "LICENSE").read_text("utf-8") == (ROOT / "LICENSE").read_text("utf-8")
    assert project["license"] == "MIT"
    assert project["description"]
    assert (path / project["readme"]).read_text("utf-8").startswith(f"# {project['name']}")
    assert project["requires-python"] == ">=3.11"
    assert "Typing :: Typed" in project["classifiers"]


@each_distribution
def test_a_distribution_is_named_after_its_package(path):
    assert project_of(path)["name"].replace("-", "_") == package_of(path).name


def test_all_distributions_carry_one_version():
    assert len({project_of(path)["version"] for path in DISTRIBUTIONS}) == 1


def test_a_dependency_has_the_same_bounds_wherever_it_is_needed():
    bounds = defaultdict(set)
    for path in DISTRIBUTIONS:
        for requirement in requirements_of(path):
            bounds[canonicalize_name(requirement.name)].add(str(requirement.specifier))
    different = {name: found for name, found in bounds.items() if len(found - {""}) > 1}
    assert not different


@each_distribution
def test_every_dependency_has_a_lower_bound(path):
    own = {canonicalize_name(project_of(other)["name"]) for other in DISTRIBUTIONS}
    unbounded = [
        str(requirement)
        for requirement in requirements_of(path)
        if not any(bound.operator in {">=", "~=", "=="} for bound in requirement.specifier)
        and not (canonicalize_name(requirement.name) in own and requirement.extras)
    ]
    assert not unbounded


@each_distribution
def test_a_distribution_of_this_project_is_needed_below_its_next_major_version(path):
    own = {canonicalize_name(project_of(other)["name"]) for other in DISTRIBUTIONS}
    needs = [requirement for requirement in requirements_of(path) if canonicalize_name(requirement.name) in own]
    extras = {name for name in own if name == "flag-analytics"}  # `all` names extras, whose own bounds count
    open_ended = [str(need) for need in needs if not (need.name in extras and need.extras and not need.specifier)]
    assert not [need for need in open_ended if not re.search(r"<\d", need)]


@each_distribution
def test_what_is_installed_here_satisfies_the_bounds(path):
    broken = []
    for requirement in requirements_of(path):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not requirement.specifier.contains(Version(version), prereleases=True):
            broken.append(f"{requirement} (here: {version})")
    assert not broken


def test_core_offers_every_plugin_as_an_extra_and_in_all():
    optional = project_of(CORE)["optional-dependencies"]
    in_all = next(iter(Requirement(text).extras for text in optional["all"]))
    for path in PLUGINS:
        plugin = project_of(path)
        assert [Requirement(text).name for text in optional[path.name]] == [plugin["name"]]
        assert path.name in in_all


def test_the_workspace_knows_every_distribution():
    sources = workspace()["tool"]["uv"]["sources"]
    assert set(sources) == {project_of(path)["name"] for path in DISTRIBUTIONS}


# -- entry points ------------------------------------------------------------------------------------------------------


@each_plugin
def test_a_plugin_module_is_announced_under_the_plugins_name(path):
    announced = project_of(path).get("entry-points", {}).get("flag_analytics", {})
    package = package_of(path)
    expected = {path.name: f"{package.name}.plugin"} if (package / "plugin.py").exists() else {}
    assert announced == expected


def test_what_is_installed_announces_what_the_sources_do():
    declared = {}
    for path in PLUGINS:
        declared.update(project_of(path).get("entry-points", {}).get("flag_analytics", {}))
    installed = importlib.metadata.entry_points(group="flag_analytics")
    assert {point.name: point.value for point in installed if point.name in declared} == declared


# -- imports -----------------------------------------------------------------------------------------------------------


def modules_of(package: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imports_of(module: str, file: Path, *, at_import_only: bool = False) -> set[str]:
    """Return the absolute names that a module imports, in functions and for type checkers too unless told otherwise."""
    found: set[str] = set()
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST) -> None:
        if at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if at_import_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{origin}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text("utf-8")))
    return found


def tops_of(path: Path, *, leave_out: str = "") -> set[str]:
    return {
        name.partition(".")[0]
        for module, file in modules_of(package_of(path))
        for name in imports_of(module, file)
        if module != leave_out
    }


def test_core_imports_no_other_distribution_when_it_is_imported():
    eager = {
        f"{module} imports {name}"
        for module, file in modules_of(package_of(CORE))
        for name in imports_of(module, file, at_import_only=True)
        if name.startswith("flag_analytics_") and not module.startswith("flag_analytics.testing")
    }
    assert not eager


def test_core_imports_no_distribution_but_the_delivery_engine():
    assert {name for name in tops_of(CORE) if name.startswith("flag_analytics_")} == {"flag_analytics_delivery"}


@each_plugin
def test_a_plugin_imports_other_plugins_only_where_it_declares_them(path):
    declared = {requirement.name.replace("-", "_") for requirement in requirements_of(path)}
    foreign = {name for name in tops_of(path) if name.startswith("flag_analytics_")} - {package_of(path).name}
    assert foreign <= declared
    assert path.name == "cli" or foreign <= MAY_IMPORT.get(path.name, {"flag_analytics_delivery"})


def listed_names() -> set[str]:
    """Return every name that the API reference lists, with its module: rows of "| `module` | … | `name`, `name` |"."""
    page = (ROOT / "docs" / "reference" / "api.md").read_text("utf-8")
    rows = re.findall(r"^\| `(flag_analytics[\w.]*)` \|.*\| ([^|]*) \|$", page, re.MULTILINE)
    return {f"{module}.{name}" for module, names in rows for name in re.findall(r"`(\w+)`", names)}


@each_distribution
def test_a_distribution_imports_only_what_the_api_reference_of_another_lists(path):
    own = package_of(path).name
    imported = {name for module, file in modules_of(package_of(path)) for name in imports_of(module, file)}
    foreign = {name for name in imported if re.match(rf"(?!{own}\b)flag_analytics(_\w+)?\b", name)}
    assert not foreign - listed_names()


@each_distribution
def test_everything_imported_is_declared(path):
    declared = {canonicalize_name(requirement.name) for requirement in requirements_of(path)}
    providers = dict(importlib.metadata.packages_distributions())
    # An editable install is not in the list above.
    providers.update({package_of(other).name: [project_of(other)["name"]] for other in DISTRIBUTIONS})
    foreign = tops_of(path) - sys.stdlib_module_names - {package_of(path).name}
    # Only the command imports a plugin's ``cli`` module, and brings what that needs.
    foreign -= {"cyclopts", "rich"} - tops_of(path, leave_out=f"{package_of(path).name}.cli")
    undeclared = {top for top in foreign if not declared & {canonicalize_name(name) for name in providers.get(top, ())}}
    assert not undeclared


@each_distribution
def test_modules_do_not_import_each_other_in_a_circle(path):
    """Imports inside functions and for type checkers count: a circle that is hidden is still one to understand."""
    package = package_of(path)
    modules = dict(modules_of(package))

    def owner(name: str) -> str | None:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name or None

    graph = {
        module: {owner(name) for name in imports_of(module, file)} - {None, module} for module, file in modules.items()
    }

    def reached(module: str) -> set[str]:
        seen: set[str] = set()
        waiting = [module]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting.extend(new)
        return seen

    reach = {module: reached(module) for module in graph}
    circles = {
        frozenset(other for other in reach[module] if module in reach[other])
        for module in graph
        if module in reach[module]
    }
    named = {" ".join(sorted(module.removeprefix(f"{package.name}.") for module in circle)) for circle in circles}
    assert not named


def test_importing_core_imports_no_backend_and_no_test_tool():
    code = "import sys, flag_analytics; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "flag_analytics" in loaded
    assert not [name for name in loaded if name.startswith("flag_analytics_") or name in {"pytest", "hypothesis"}]


# -- size and words ----------------------------------------------------------------------------------------------------


def lines_of_code(file: Path) -> int:
    """Return how many lines hold code: not blank, not a comment, not part of a docstring."""
    source = file.read_text("utf-8")
    lines: set[int] = set()
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


@pytest.mark.parametrize("name", MAX_LINES)
def test_the_core_and_the_engine_stay_small(name):
    (path,) = (path for path in DISTRIBUTIONS if path.name == name)
    package = package_of(path)
    files = [file for _, file in modules_of(package) if not file.is_relative_to(package / "testing")]
    sizes = {file.relative_to(package).as_posix(): lines_of_code(file) for file in files}
    assert sum(sizes.values()) <= MAX_LINES[name], sizes


@each_distribution
def test_every_module_says_why_it_exists(path):
    silent = [
        module
        for module, file in modules_of(package_of(path))
        if not ast.get_docstring(ast.parse(file.read_text("utf-8")))
    ]
    assert not silent


def our_files() -> list[Path]:
    """Return every text file of the project that git has or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.splitlines()]
    return [file for file in files if file.is_file() and b"\0" not in file.read_bytes()[:8_192]]


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("an unfinished thing", r"\b(TOD[O]|FIXM[E]|XX[X])\b"),
        ("a path of one machine", r"(?<![\w.~}])/(roo[t]|wor[k])/"),
        ("a package index", r"\b(index-ur[l]|pypi\.or[g]|pythonhosted\.or[g])"),
        ("a blanket ignore", r"type: ignor[e](?!\[)|# noq[a](?!:)"),
    ],
)
def test_no_file_holds(what, pattern):
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in our_files()
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert not found, what


def test_test_files_have_names_of_their_own():
    names = defaultdict(list)
    for file in our_files():
        if file.name.startswith("test_") and file.suffix == ".py" and "examples" not in file.parts:
            names[file.name].append(str(file.relative_to(ROOT)))
    assert not [files for files in names.values() if len(files) > 1]


# -- the way in --------------------------------------------------------------------------------------------------------


def commands_of_readme() -> list[str]:
    return re.findall(r"^```sh\n(.*?)\n```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_readme_gives_two_commands_that_are_complete():
    assert commands_of_readme()[:2] == [
        "pip install uv && uv run --no-dev flag-analytics demo",
        "pip install uv && uv run pytest",
    ]


def test_the_gate_runs_the_readmes_test_command():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    (extraction,) = re.findall(r"^test_command=\$\((.*)\)$", script, re.MULTILINE)
    extracted = subprocess.run(["bash", "-c", extraction], cwd=ROOT, check=True, capture_output=True, text=True)
    assert extracted.stdout.strip() == commands_of_readme()[1]
    assert re.search(r'^bash .*-c "\$test_command"$', script, re.MULTILINE)


def test_fragments_of_the_changelog_have_a_known_kind():
    kinds = {kind["directory"] for kind in workspace()["tool"]["towncrier"]["type"]}
    fragments = [file.name.split(".") for file in (ROOT / "changelog.d").iterdir() if file.name != "README.md"]
    assert not [name for name in fragments if len(name) != 3 or name[1] not in kinds or name[2] != "md"]
