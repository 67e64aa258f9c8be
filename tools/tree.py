"""Check of the drawn imports: no circle, no import upwards, and a page that describes the present tree.

    python -m tools.tree

The children of a folder are its modules and its sub-folders. A sub-folder counts as one child, with everything below
it. The rules apply to the top and to every folder:

- The children of a folder import each other without a circle.
- Where the page lists two children of a folder, the one listed first may import the other, never the reverse.
- A folder has at most `MODULES_MAX` modules.
- The page has one row for every folder. Every folder and module that it names exists.

grimp draws the imports. Imports inside functions and under TYPE_CHECKING count as well.
"""

import re
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grimp

REPOSITORY = Path(__file__).parent.parent
ROOTS = ("lab", "cloud", "node", "protocol")
"""The packages whose imports are drawn."""
PAGE = "docs/architecture.md"
MODULES_MAX = 20
"""A folder with more files has more than one subject. The migrations of a service are one sequence, of any length."""

OWN = "__init__"
"""The child for the `__init__.py` of a folder."""

_ROW = re.compile(r"^\| `([a-z0-9_/]+(?:/|\.py))` \|")
_NAMED = re.compile(r"`([a-z0-9_]+(?:/[a-z0-9_]+)*(?:/|\.py))`")


@dataclass(frozen=True)
class Tree:
    """Modules, folders (packages) and imports, all by dotted name. An import is (importer, imported)."""

    modules: frozenset[str]
    folders: frozenset[str]
    imports: frozenset[tuple[str, str]]


Arrows = dict[tuple[str, str], list[tuple[str, str]]]
"""For each pair of children of one folder: their imports, as (importer, imported)."""


def drawn(roots: Iterable[str], repository: Path) -> Tree:
    """Draw some packages, which must be importable from `repository`."""
    found = [path for root in roots for path in sorted((repository / root).rglob("*.py"))]
    modules = {path: ".".join(path.relative_to(repository).with_suffix("").parts) for path in found}
    folders = {name.removesuffix(f".{OWN}") for path, name in modules.items() if path.stem == OWN}
    graph = grimp.build_graph(*roots, cache_dir=None)
    return Tree(
        modules=frozenset(name.removesuffix(f".{OWN}") for name in modules.values()),
        folders=frozenset(folders),
        imports=frozenset(
            (importer, imported)
            for importer in graph.modules
            for imported in graph.find_modules_directly_imported_by(importer)
        ),
    )


def arrows_by_folder(tree: Tree) -> dict[str, Arrows]:
    """Each import, under the deepest folder that has both of its ends. The top is the folder without a name."""
    found: dict[str, Arrows] = defaultdict(lambda: defaultdict(list))
    for importer, imported in sorted(tree.imports):
        one, other = _steps(importer, tree.folders), _steps(imported, tree.folders)
        shared = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        if shared is not None:
            found[".".join(one[:shared])][one[shared], other[shared]].append((importer, imported))
    return found


def _steps(module: str, folders: frozenset[str]) -> list[str]:
    """The path from the top to a module. The `__init__.py` of a folder is a child of the folder."""
    return [*module.split("."), OWN] if module in folders else module.split(".")


def circles(arrows: Arrows) -> Iterator[list[str]]:
    """Circles, shortest first. After each, the pair of the circle with the fewest imports counts as removed."""
    left = {pair: len(imports) for pair, imports in arrows.items()}
    while circle := _shortest_circle(left):
        yield circle
        del left[min(_pairs(circle), key=lambda pair: (left[pair], pair))]


def _shortest_circle(pairs: Iterable[tuple[str, str]]) -> list[str] | None:
    following: dict[str, list[str]] = defaultdict(list)
    for importer, imported in sorted(pairs):
        following[importer].append(imported)
    found = (_way_back(start, following) for start in sorted(following))
    return min((circle for circle in found if circle), key=len, default=None)


def _way_back(start: str, following: Mapping[str, list[str]]) -> list[str] | None:
    """The shortest path from a child back to itself, without the last step. None if there is no such path."""
    ways = deque([[start]])
    seen = set()
    while ways:
        way = ways.popleft()
        for child in following.get(way[-1], ()):
            if child == start:
                return way
            if child not in seen:
                seen.add(child)
                ways.append([*way, child])
    return None


def _pairs(circle: list[str]) -> list[tuple[str, str]]:
    return list(zip(circle, [*circle[1:], circle[0]], strict=True))


def listed(page: str) -> list[str]:
    """The paths in the rows of the page's tables, in order. Folders end with a slash."""
    return [match[1] for line in page.splitlines() if (match := _ROW.match(line))]


def problems(tree: Tree, page: str, exists: Callable[[str], bool]) -> list[str]:
    """Every broken rule, with the action to take. `exists` answers for paths outside the drawn tree."""
    rows = listed(page)
    places = {path: place for place, path in enumerate(rows)}
    found: list[str] = []
    for folder, arrows in sorted(arrows_by_folder(tree).items()):
        found += _circle_problems(folder, arrows)
        found += _order_problems(tree, folder, arrows, places)
    found += _size_problems(tree)
    found += _page_problems(tree, page, rows, exists)
    return found


def _circle_problems(folder: str, arrows: Arrows) -> Iterator[str]:
    for circle in circles(arrows):
        lines = [f"{_path(folder)}: a circle: {' -> '.join([*circle, circle[0]])}"]
        for pair in _pairs(circle):
            lines += [f"    {importer} imports {imported}" for importer, imported in arrows[pair]]
        lines.append("  Move the shared code into a module below both, or pass it as an argument.")
        yield "\n".join(lines)


def _order_problems(tree: Tree, folder: str, arrows: Arrows, places: Mapping[str, int]) -> Iterator[str]:
    for (one, other), imports in sorted(arrows.items()):
        upper, lower = _child_path(tree, folder, one), _child_path(tree, folder, other)
        if upper in places and lower in places and places[upper] > places[lower]:
            lines = [f"{upper} imports {lower}, which {PAGE} lists above it:"]
            lines += [f"    {importer} imports {imported}" for importer, imported in imports]
            lines.append("  Move the importing code up or the imported code down, or list the two the other way round.")
            yield "\n".join(lines)


def _size_problems(tree: Tree) -> Iterator[str]:
    sizes: dict[str, int] = defaultdict(int)
    for module in tree.modules - tree.folders:
        sizes[module.rpartition(".")[0]] += 1
    for folder, size in sorted(sizes.items()):
        if size > MODULES_MAX and not folder.endswith(".migrations"):
            yield f"{_path(folder)} has {size} modules, and {MODULES_MAX} are allowed. Move a subject to a new folder."


def _page_problems(tree: Tree, page: str, rows: list[str], exists: Callable[[str], bool]) -> Iterator[str]:
    there = {_path(folder) for folder in tree.folders}
    for folder in sorted(there - set(rows)):
        yield f"{folder} has no row in {PAGE}. Add `| `{folder}` | its job |` below the rows that import it."
    for path in sorted({path for path in rows if rows.count(path) > 1}):
        yield f"{path} has more than one row in {PAGE}. Keep one."
    there |= {f"{module.replace('.', '/')}.py" for module in tree.modules - tree.folders}
    there |= {f"{folder}{OWN}.py" for folder in there if folder.endswith("/")}
    tops = {path.partition("/")[0] for path in {*there, *rows}}
    named = {path for path in _NAMED.findall(page) if path.partition("/")[0] in tops} | set(rows)
    for path in sorted(named - there):
        if not exists(path):
            yield f"{path} is named in {PAGE}, but it does not exist. Correct the name, or remove the line."


def _path(folder: str) -> str:
    """The path of a folder, with a slash at the end."""
    return f"{folder.replace('.', '/')}/" if folder else "the top"


def _child_path(tree: Tree, folder: str, child: str) -> str:
    name = f"{folder}.{child}" if folder else child
    return _path(name) if name in tree.folders else f"{name.replace('.', '/')}.py"


def main() -> int:
    """Print every problem; the exit code is 1 if there is one."""
    tree = drawn(ROOTS, REPOSITORY)
    found = problems(tree, (REPOSITORY / PAGE).read_text(), lambda path: (REPOSITORY / path).exists())
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"{len(tree.folders)} folders, {len(tree.imports)} imports, {len(found)} against the rules")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
