"""Runs the benchmarks: all of them, or the modules and functions named."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import platform
import sys
from collections.abc import Callable, Iterator

import benchmarks

from ._harness import Table, as_json, as_text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="a module (core) or one benchmark of it (core.record)")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit was missed")
    options = parser.parse_args()
    tables: list[Table] = []
    if options.format == "text":
        print(f"CPython {platform.python_version()}, {platform.system()} {platform.machine()}\n", flush=True)
    for name, benchmark in find(options.names):
        print(f"running {name} …", file=sys.stderr, flush=True)
        table = benchmark()
        tables.append(table)
        if options.format == "text":
            print(as_text(table), flush=True)
    if options.format == "json":
        print(as_json(tables))
    return 1 if options.check and not all(table.kept for table in tables) else 0


def find(names: list[str]) -> Iterator[tuple[str, Callable[[], Table]]]:
    """Yield each benchmark asked for with its full name.

    Raises:
        SystemExit: a name is of no benchmark.
    """
    modules = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_")]
    known: dict[str, Callable[[], Table]] = {}
    for module in modules:
        if names and not any(name.partition(".")[0] == module for name in names):
            continue
        for benchmark in importlib.import_module(f"benchmarks.{module}").BENCHMARKS:
            known[f"{module}.{benchmark.__name__}"] = benchmark
    unknown = [name for name in names if not any(f"{full}.".startswith(f"{name}.") for full in known)]
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(unknown)}: there are {', '.join(modules)} and what they list")
    for full, benchmark in known.items():
        if not names or any(f"{full}.".startswith(f"{name}.") for name in names):
            yield full, benchmark


if __name__ == "__main__":
    sys.exit(main())
