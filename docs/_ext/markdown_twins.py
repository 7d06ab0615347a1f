"""Writes a Markdown twin beside each page of the site, and ``llms.txt``, which lists them.

A page's source is Markdown already. Its twin also has what Sphinx puts in: an included README, and the docstrings of
the modules that it describes.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attributes import first_sentence
from site_only import as_site

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["llms_txt", "twin"]

_DIRECTIVE = re.compile(r"^```\{(?P<name>[\w-]+)\}(?P<argument>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"^<!--.*?-->\n+", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r"^:(?P<name>[\w-]+): *(?P<value>.*)$", re.MULTILINE)
_MODULE = re.compile(r"^\.\. automodule:: (\S+)$", re.MULTILINE)
_TOCTREE = re.compile(r"^```\{toctree\}\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def twin(page: Path) -> str:
    """Return a page as Markdown without directives and comments."""
    text = as_site(page.read_text("utf-8"))
    text = _DIRECTIVE.sub(lambda match: _in_markdown(match, page), text)
    return re.sub(r"\n{3,}", "\n\n", _COMMENT.sub("", text)).strip() + "\n"


def llms_txt(docs: Path) -> str:
    """Return the list of all pages in the format of https://llmstxt.org: title, summary, one section for each part."""
    index = as_site((docs / "index.md").read_text("utf-8"))
    title, _, rest = index.partition("\n")
    summary = next(part for part in rest.split("\n\n") if part[:1].isalpha())
    lines = [title, "", f"> {' '.join(summary.split())}"]
    for tree in _TOCTREE.finditer(index):
        options = dict(_OPTION.findall(tree["body"]))
        lines += ["", f"## {options['caption']}", ""]
        lines += [_entry(docs, name) for name in re.findall(r"^[\w/-]+$", tree["body"], re.MULTILINE)]
    records = sorted((docs / "decisions").glob("0*.md"))
    lines += ["", "## Optional", "", *(_entry(docs, f"decisions/{record.stem}") for record in records)]
    return "\n".join(lines) + "\n"


def _entry(docs: Path, name: str) -> str:
    text = twin(docs / f"{name}.md")
    paragraphs = [part for part in re.split(r"\n{2,}", text) if re.match(r"[\w`*]", part)]
    about = [part for part in paragraphs if not part.startswith("Date:")]
    sentence = re.match(r"(?s).+?[.?](?=\s|$)", re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", about[0])) if about else None
    described = f": {' '.join(sentence[0].split())}" if sentence else ""
    return f"- [{text.partition(chr(10))[0].removeprefix('# ')}]({name}.md){described}"


def _in_markdown(match: re.Match[str], page: Path) -> str:
    if match["name"] == "include":
        options = dict(_OPTION.findall(match["body"]))
        included = (page.parent / match["argument"].strip()).read_text("utf-8")
        return included.partition(options["start-after"].strip('"'))[2]
    if match["name"] == "eval-rst":
        return "\n".join(line for module in _MODULE.findall(match["body"]) for line in _described(module))
    return ""


def _described(name: str) -> Iterator[str]:
    """Yield the docstrings of a module and of its public names, each below its signature."""
    module = importlib.import_module(name)
    yield f"### `{name}`\n\n{inspect.getdoc(module)}\n"
    for public in module.__all__:
        thing = getattr(module, public)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        yield f"#### `{public}{_signature(thing)}`\n\n{inspect.getdoc(thing) or ''}\n"
        for method, function in vars(thing).items() if inspect.isclass(thing) else ():
            if not method.startswith("_") and inspect.isfunction(function) and inspect.getdoc(function):
                yield f"- `{method}{_signature(function)}`: {first_sentence(function)}"
        yield ""


def _signature(thing: Any) -> str:
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):  # an exception, a protocol
        return ""
    plain = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


def _link(app: Sphinx, name: str, _: str, context: dict[str, Any], __: object) -> None:
    if name in app.env.found_docs:
        href = f"{name.rpartition('/')[2]}.md"
        context["metatags"] = (
            f'{context.get("metatags", "")}<link rel="alternate" type="text/markdown" href="{href}">\n'
        )


def _write(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.name != "html":
        return
    for name in sorted(app.env.found_docs):
        path = Path(app.outdir, f"{name}.md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(twin(Path(app.srcdir, f"{name}.md")), "utf-8", newline="\n")
    Path(app.outdir, "llms.txt").write_text(llms_txt(Path(app.srcdir)), "utf-8", newline="\n")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", _link)
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True}
