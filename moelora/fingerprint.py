"""A fingerprint of the source that can change a run's number.

Modification times re-run finished work for a comment; not looking at the code at all re-runs nothing after an edit.
So the workflow hands each rule a digest of the syntax trees, without comments and docstrings, of the modules that
the rule's command imports, followed statically through this package (imports inside functions count).
"""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from moelora.errors import ConfigError

PACKAGE = "moelora"
ROOT = Path(__file__).resolve().parent

# Modules that cannot change a number: wording of messages, how bars look, where a file is renamed or whether it is
# whole, who waits for whom, when a process leaves, this one.
IGNORED = frozenset(
    {
        "moelora", "moelora.errors", "moelora.files", "moelora.fingerprint", "moelora.progress", "moelora.cli",
        "moelora.locks", "moelora.sums", "moelora.training.preemption",
    }
)  # fmt: skip

# Texts for readers among a method's arguments.
WORDING = frozenset({"title", "reference", "merge_note", "start_note", "several_note", "architecture_note", "origin"})

TRAINING = ("moelora.training.command", "moelora.evaluation.command")


def fingerprint(roots: Iterable[str]) -> str:
    """Return the digest of the import closure of some modules: 16 hex digits.

    Args:
        roots: names of modules of this package.

    Raises:
        ConfigError: there is no such module.
    """
    return _fingerprint(tuple(sorted(set(roots))))


@cache
def _fingerprint(roots: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in sorted(_closure(roots)):
        digest.update(f"{name}\0{_module(name).digest}\n".encode())
    return digest.hexdigest()[:16]


def method_fingerprint(*methods: str, command: Iterable[str] = TRAINING) -> str:
    """Return the fingerprint of training and scoring with some methods.

    Pages are imported by name at run time, so each is named here; another method's page is not in the closure.
    """
    return fingerprint([*command, *(f"{PACKAGE}.methods.{method}" for method in methods)])


def variant_fingerprint(variant: Any, command: Iterable[str] = TRAINING) -> str:
    """Return the fingerprint of a variant: its method's, and for a matched LoRA also the mixture's.

    The mixture's page counts the parameters that the control's rank is solved from.
    """
    methods = [variant.method, variant.match.method] if variant.match else [variant.method]
    return method_fingerprint(*methods, command=command)


def closure(roots: Iterable[str]) -> set[str]:
    """Return the modules of this package that some modules import, directly or not, and themselves.

    A name imported from a package is followed to the module that defines it, not to all that the package offers:
    ``from moelora.tuners import MixtureConfig`` does not depend on the other tuners.

    Raises:
        ConfigError: there is no such module.
    """
    return set(_closure(tuple(sorted(set(roots)))))


@cache
def _closure(roots: tuple[str, ...]) -> frozenset[str]:
    for name in roots:
        if _path(name) is None:
            raise ConfigError(f"no module '{name}' beside {ROOT}; a fingerprint needs its source")
    found: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in found or name in IGNORED:
            continue
        found.add(name)
        for module, imported in _module(name).imports:
            todo.extend(_follow(module, imported))
    return frozenset(found)


def _follow(module: str, imported: "str | None") -> list[str]:
    """Return the modules that one import statement leads to."""
    if imported is None:  # import package.module: everything that it imports itself
        return [module] if _path(module) else []
    if _path(f"{module}.{imported}"):  # from package import module
        return [f"{module}.{imported}"]
    if not _path(module):
        return []
    if not _is_package(module):
        return [module]
    package = _module(module)
    reached = [module]
    for wanted in {imported}.union(*(group for group in package.groups if imported in group)):
        for origin, name, alias in package.exports:
            if alias == wanted:
                reached.extend(_follow(origin, name))
    return reached


class _Module:
    """One parsed file: its digest and what it imports."""

    def __init__(self, name: str, path: Path):
        tree = ast.parse(path.read_bytes(), filename=str(path))
        is_package = path.name == "__init__.py"
        parent = name if is_package else name.rpartition(".")[0]
        self.imports, self.exports, self.groups = (), (), ()
        body = tree.body
        if is_package:
            # What a package offers is followed only for those who ask for it by name, and is no part of its own
            # digest: a new tuner must not re-run the others.
            offered = [node for node in body if _is_offer(node)]
            body = [node for node in body if not _is_offer(node)]
            self.exports = tuple(_imports(offered, parent))
            # A call that hands several of its names to one another (PEFT's registration) ties them together.
            self.groups = tuple(
                {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
                for node in offered
                if isinstance(node, ast.Expr)
            )
        self.imports = tuple((module, imported) for module, imported, _ in _imports(body, parent))
        self.digest = hashlib.sha256(_text(body).encode()).hexdigest()


def _targets(node: ast.AST, parent: str) -> Iterable[tuple[str, "str | None", str]]:
    """Yield (module, name or None, alias) of an import statement, as far as it is about this package."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] == PACKAGE:
                yield alias.name, None, alias.asname or alias.name
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if node.level:
            base = parent.split(".")[: len(parent.split(".")) - node.level + 1]
            module = ".".join([*base, module] if module else base)
        if module.split(".")[0] == PACKAGE:
            for alias in node.names:
                yield module, alias.name, alias.asname or alias.name


def _imports(body: list[ast.stmt], parent: str) -> Iterable[tuple[str, "str | None", str]]:
    """Yield what the import statements in some code reach, at any depth."""
    for statement in body:
        for node in ast.walk(statement):
            yield from _targets(node, parent)


def _is_offer(node: ast.stmt) -> bool:
    """Return whether a package's statement only offers names: imports, at once or lazily, registration, ``__all__``."""
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
    if isinstance(node, ast.FunctionDef):
        return node.name == "__getattr__"
    return isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)


def _text(node: Any) -> str:
    """Return a printed syntax tree without positions, docstrings, wording and empty fields.

    Empty fields are left out because newer Pythons add some; comments never are in the tree.
    """
    if isinstance(node, ast.AST):
        fields = (
            f"{name}={_text(value)}"
            for name, value in ast.iter_fields(node)
            if value is not None and value != [] and name not in ("type_comment", "type_ignores", "kind")
        )
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(_text(item) for item in node if not (_is_string(item) or _is_wording(item)))}]"
    return repr(node)


def _is_string(node: Any) -> bool:
    """Return whether a statement is a bare string, as a docstring is: it has no effect."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_wording(node: Any) -> bool:
    """Return whether an argument is one of a method's texts for readers."""
    return isinstance(node, ast.keyword) and node.arg in WORDING and isinstance(node.value, ast.Constant)


@cache
def _module(name: str) -> _Module:
    path = _path(name)
    try:
        return _Module(name, path)
    except SyntaxError as error:
        raise ConfigError(f"{path} is not valid Python (line {error.lineno}: {error.msg}); correct it") from error


@cache
def _path(name: str) -> "Path | None":
    """Return the source of a module of this package, or None when it has none."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    stem = ROOT.joinpath(*parts[1:])
    for path in (stem / "__init__.py", stem.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _is_package(name: str) -> bool:
    return _path(name).name == "__init__.py"


def clear_cache() -> None:
    """Forget parsed files: for processes that live while sources are edited, such as tests."""
    for function in (_fingerprint, _closure, _module, _path):
        function.cache_clear()
