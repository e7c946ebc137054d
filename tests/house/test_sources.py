"""Sources keep the sizes and the manners that CONTRIBUTING.md promises."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("psc_volumetric", "pipelines", "adapters", "flows")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 8
REASON = "# long:"
# Parameters of these are options of a command line, or named by xarray.
GIVEN_FROM_OUTSIDE = ("pipelines/commands/", "pipelines/cli.py", "flows/__main__.py")
ALSO_GIVEN = ("main", "open_dataset", "open_groups_as_dict")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def parsed(path: Path) -> ast.Module:
    """CPython 3.11 counts how deep all threads parse together, and gives up where that differs."""
    text = path.read_text(encoding="utf-8")
    try:
        return ast.parse(text)
    except SystemError:
        return ast.parse(text)


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if not body:
        return 0
    end = node.end_lineno
    assert end is not None
    return end - body[0].lineno + 1


def matching_lines(paths: list[Path], pattern: str) -> list[str]:
    return [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(pattern, line.split("#")[0])
    ]


def test_files_and_functions_are_short_or_say_why_not() -> None:
    too_long = []
    for path in SOURCES:
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > MAX_FILE_LINES and not any(line.startswith(REASON) for line in lines):
            too_long.append(f"{name_of(path)}: {len(lines)} lines")
        for node in functions(parsed(path)):
            length = length_without_docstring(node)
            own_lines = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            if length > MAX_FUNCTION_LINES and REASON not in own_lines:
                too_long.append(f"{name_of(path)}: {node.name}: {length} lines")
    assert not too_long


def test_functions_take_few_parameters() -> None:
    """More become a frozen value. Compiled loops cannot take one without a cost."""
    many = []
    for path in SOURCES:
        if name_of(path).startswith(GIVEN_FROM_OUTSIDE):
            continue
        for node in functions(parsed(path)):
            marks = " ".join(map(ast.unparse, node.decorator_list))
            compiled = any(mark in marks for mark in ("compiled", "inlined", "inner"))
            taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(argument.arg not in ("self", "cls") for argument in taken)
            if count > MAX_PARAMETERS and not compiled and node.name not in ALSO_GIVEN:
                many.append(f"{name_of(path)}: {node.name}: {count} parameters")
    assert not many


def test_each_module_says_what_it_is_for() -> None:
    trees = {name_of(path): parsed(path) for path in SOURCES}
    assert not [name for name, tree in trees.items() if not ast.get_docstring(tree)]


def test_nothing_loads_code_from_data() -> None:
    assert not matching_lines(SOURCES, r"\btorch\.load\b|\bpickle\.|\bConfigParser\b")


def test_no_library_draws_the_numbers_of_the_codec() -> None:
    """Making a prior may, before it has a digest; what encoder and decoder share may not."""
    making = {f"psc_volumetric/prior/making/{name}.py" for name in ("build", "convert")}
    codec = [
        path
        for path in SOURCES
        if path.is_relative_to(ROOT / "psc_volumetric") and name_of(path) not in making
    ]
    assert not matching_lines(
        codec, r"\b(torch\.(randn|rand|manual_seed|seed)|np\.random|random\.(seed|random))\b"
    )


def test_each_folder_of_sources_is_a_regular_package() -> None:
    folders = {path.parent for path in SOURCES}
    assert not [name_of(folder) for folder in folders if not (folder / "__init__.py").exists()]
    assert not [name for name in PACKAGES if not (ROOT / name / "py.typed").exists()]


def test_no_absolute_path_of_one_machine_in_the_tree() -> None:
    suspicious = re.compile(r"(?<![\w.$}])/(?:work|root|home|Users|farm|tmp)/\w")
    kinds = {".py", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".sh", ""}
    folders = [ROOT / name for name in (*PACKAGES, "tests", "docs", "deploy", ".ci")]
    files = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    files += [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    found = [
        name_of(path)
        for path in files
        if path.suffix in kinds
        and "__pycache__" not in path.parts
        and suspicious.search(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert not found
