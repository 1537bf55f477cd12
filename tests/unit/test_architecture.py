"""The rules of who may import whom, read from the source, so that nobody has to look.

cli  web  testing              doors
    extension                  where Flask meets the rest         wsgi: stands alone
    delivery                   knows no Flask
store  |  transports           never import each other
    values                     no Flask, no SQLAlchemy, no network
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.support.services import require_service

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "flask_deferred_mail"
SOURCES = sorted((ROOT / PACKAGE).rglob("*.py"))

#: Height of each part; what is not named is a value, at the bottom.
HEIGHT = {
    "store": 1,
    "transports": 1,
    "webhooks": 1,
    "delivery": 2,
    "wsgi": 0,
    "signal_listener": 3,
    "app_mail": 3,
    "extension": 3,
}
HEIGHT |= dict.fromkeys(("webhook_desk", "webhook_views", "event_output", "doctor_webhooks"), 3)
HEIGHT |= dict.fromkeys(("engines", "tasks", "request_batch"), 3)
HEIGHT |= {"__init__": 4, "cli": 4, "web": 4, "testing": 4, "migrations": 4}
#: The commands, and what they print: the only modules that know click.
COMMANDS = frozenset({"cli", "cli_command", "cli_sending", "cli_looking", "cli_changing"})
COMMANDS |= {"cli_tables", "cli_suppress", "cli_transports", "cli_worker"}
HEIGHT |= dict.fromkeys(COMMANDS, 4)
HEIGHT |= {"cli_output": 3, "doctor": 3, "doctor_database": 3, "explanation": 3}
HEIGHT |= {"doctor_dns": 3}
HEIGHT |= {"doctor_suppression": 3, "transport_report": 3}

_DOORS = frozenset({"extension", "web", "webhook_views", "testing", "tasks"}) | COMMANDS
_NETWORK = ("socket", "ssl", "smtplib", "http", "urllib.request", "requests")

#: Library -> the parts that may import it. A library that is not here may be imported nowhere.
OWNERS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("flask", "werkzeug"), _DOORS),
    **dict.fromkeys(_NETWORK, frozenset({"transports"})),
    "socket": frozenset({"transports", "sd_notify"}),  # the latter's is a local one
    "click": COMMANDS,
    "sqlalchemy": frozenset({"store"}),
    "alembic": frozenset({"store"}),
    "blinker": frozenset({"signals"}),
    "email_validator": frozenset({"address"}),
    "markdownify": frozenset({"plain_text"}),
    "jinja2": frozenset({"rendering", "message"}),
    "cryptography": frozenset({"store", "webhooks"}),
    "botocore": frozenset({"transports"}),  # finds keys for AWS, and does nothing else
    # Certificates of SNS, over the transports' timed connections.
    "requests": frozenset({"transports", "webhooks"}),
    "dkim": frozenset({"transports"}),  # signs
    "nacl": frozenset({"transports"}),  # with Ed25519 keys
    "dns": frozenset({"doctor_dns"}),
    **dict.fromkeys(("celery", "rq", "redis"), frozenset({"engines"})),
    "uwsgi": frozenset({"delivery"}),  # asked whether threads run there
}

#: gevent patches modules in place: a name taken out of one before stays unpatched.
UNPATCHED = {"threading", "time.sleep", "socket", "queue", "select", "subprocess"}

COLLECTORS = re.compile(r"(^|_)(utils?|helpers?|common|core|manager|misc)$")


@dataclass(frozen=True)
class Import:
    """One name that a module imports, at its top or inside a function."""

    target: str
    from_form: bool
    typing_only: bool


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def part(self) -> str:
        """The folder directly in the package, or the module itself."""
        return part_of(self.name)

    def internal(self) -> set[str]:
        """The modules of the package that this one needs when it runs."""
        found = {resolve(i.target) for i in self.imports if not i.typing_only}
        return {name for name in found if name and name != self.name}


def part_of(name: str) -> str:
    """``flask_deferred_mail.store.jobs`` -> ``store``; the package itself -> ``__init__``."""
    return [*name.split("."), "__init__"][1]


def name_of(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def names() -> frozenset[str]:
    """Every module of the package."""
    return frozenset(map(name_of, SOURCES))


def resolve(target: str) -> str:
    """The module of ours that defines ``target``, or nothing if it is not ours."""
    if target.split(".")[0] != PACKAGE:
        return ""
    return target if target in names() else target.rpartition(".")[0]


def is_typing_block(node: ast.AST) -> bool:
    """Whether this is ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports_of(node: ast.AST, package: str, typing_only: bool = False) -> Iterator[Import]:
    """Every import below ``node``, with relative names spelt out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, False, typing_only)
        elif isinstance(child, ast.ImportFrom):
            base = package.rsplit(".", child.level - 1)[0] if child.level else ""
            prefix = ".".join(filter(None, [base, child.module]))
            for alias in child.names:
                yield Import(f"{prefix}.{alias.name}", True, typing_only)
        else:
            yield from imports_of(child, package, typing_only or is_typing_block(child))


@cache
def module(path: Path) -> Module:
    """A source file, read once."""
    name = name_of(path)
    tree = ast.parse(path.read_text("utf-8"))
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    return Module(name, tree, tuple(imports_of(tree, package)))


@pytest.fixture(params=SOURCES, ids=lambda path: name_of(path))
def source(request: pytest.FixtureRequest) -> Path:
    """Each file of the package in turn."""
    return request.param  # type: ignore[no-any-return]  # SOURCES holds paths


def owner_of(target: str) -> frozenset[str] | None:
    """Who may import a library: the longest entry of OWNERS that names it."""
    while target:
        if target in OWNERS:
            return OWNERS[target]
        target = target.rpartition(".")[0]
    return None


def test_arrows_point_down(source: Path) -> None:
    """No module needs one above its own; store and transports do not know each other."""
    this = module(source)
    own = HEIGHT.get(this.part, 0)
    for name in this.internal():
        part = part_of(name)
        assert part != "__init__", f"{this.name}: import from the defining module, not the package"
        assert HEIGHT.get(part, 0) <= own, f"{this.name} reaches up to {name}"
        assert {part, this.part} != {"store", "transports"}, f"{this.name} imports {name}"


def test_libraries_stay_in_their_place(source: Path) -> None:
    """Each library is imported only by the part that owns it."""
    this = module(source)
    for target in (i.target for i in this.imports):
        top = target.split(".")[0]
        owners = owner_of(target)
        if top == PACKAGE or (owners is None and top in sys.stdlib_module_names):
            continue
        if target == "socket" and this.part not in _NETWORK_PARTS and only_hostname(this.tree):
            continue
        assert owners is not None, f"{this.name}: {target} has no place in OWNERS yet"
        assert this.part in owners, f"{this.name} imports {target}"


_NETWORK_PARTS = OWNERS["socket"]


def only_hostname(tree: ast.Module) -> bool:
    """Whether a module uses ``socket`` for the host's name alone, which needs no network."""
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "socket"
    }
    return used == {"gethostname"}


def test_the_hook_stands_alone() -> None:
    """wsgi.py needs the standard library and nothing of ours: it serves without mail."""
    hook = module(ROOT / PACKAGE / "wsgi.py")
    tops = {i.target.split(".")[0] for i in hook.imports}
    assert tops <= set(sys.stdlib_module_names)


def test_no_import_goes_round() -> None:
    """Also counting imports inside functions, no module needs itself in the end."""
    graph = {module(path).name: module(path).internal() for path in SOURCES}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"round: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for needed in graph[name]:
                visit(needed, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_what_gevent_patches_is_used_through_its_module(source: Path) -> None:
    """``import threading`` and not ``from threading import Lock``, and so for sleep and sockets."""
    for entry in module(source).imports:
        if entry.from_form and not entry.typing_only:
            parent = entry.target.rpartition(".")[0]
            assert not {entry.target, parent} & UNPATCHED, f"{source.name}: from {entry.target}"


def test_each_file_says_what_it_is_for(source: Path) -> None:
    """A docstring, at most 400 lines, and a name that says more than "things"."""
    assert ast.get_docstring(module(source).tree), f"{source} has no docstring"
    assert len(source.read_text("utf-8").splitlines()) <= 400, f"{source} has two jobs"
    assert not COLLECTORS.search(source.stem), f"{source.stem} would collect things"


def test_no_file_names_a_home_folder() -> None:
    """No tracked file holds the path of somebody's own folder."""
    git = shutil.which("git")
    is_clone = git is not None and (ROOT / ".git").exists()
    require_service("git", is_clone, "the list of tracked files comes from it")
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True
    ).stdout
    home = re.compile(rb"(?<![\w.~-])/(?:home/\w|root/|Users/\w)|[A-Z]:\\+Users\\")
    for name in filter(None, listing.decode("utf-8").split("\0")):
        path = ROOT / name
        if path.is_file():
            found = home.search(path.read_bytes())
            assert found is None, f"{name} names {found and found[0]!r}"
