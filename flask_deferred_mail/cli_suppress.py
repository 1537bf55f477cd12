"""``flask mail suppress ...``: the list of addresses that are not mailed any more."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, Any

import click

from . import cli_output as output
from .address import parse_address
from .app_mail import AppMail
from .cleaning import clean
from .cli_command import (
    EXIT_USAGE,
    Amount,
    Refused,
    command,
    json_option,
    leave,
    print_json,
    say,
    warn,
)
from .errors import MessageError
from .job import moment
from .moments import instant
from .suppression import DAY, LIFETIME, Reason, Suppression, checked_domain, suppression

#: The columns of an exported file, in their order. Only the address must be there for an import.
COLUMNS = (
    *("address", "reason", "domain", "tenant", "tag"),
    *("source", "detail", "created_at", "expires_at"),
)
#: Of an import without a header line.
_WITHOUT_HEADER = ("address", "reason")
#: Bad lines of an import that are told one by one.
_TOLD = 100


@click.group("suppress")
def suppress() -> None:
    """Look at and change the list of addresses that get no mail.

    Complaints, unsubscribes and mail that comes back put addresses on it; so can you. An entry can
    be for the mail of one sender's domain (--domain) or of one tenant (--tenant) only; with
    neither, it is for all mail.

    \b
    Examples:
      flask --app myapp mail suppress add ann@example.com
      flask --app myapp mail suppress list
      flask --app myapp mail suppress import blocked.csv --reason hard_bounce
    """


_reason = click.Choice([reason.value for reason in Reason])
_domain_option = click.option("--domain", metavar="DOMAIN", help="Only mail from this domain.")
_tenant_option = click.option("--tenant", metavar="TENANT", help="Only mail of this tenant.")
_tag_option = click.option("--tag", metavar="TAG", help="Only mail with this tag (unsubscribe).")


@command("add")
@click.argument("address", metavar="ADDRESS")
@click.option("--reason", type=_reason, default="manual", show_default=True, help="Why.")
@click.option(
    "--expires",
    type=Amount(min=0, min_open=True),
    metavar="DAYS",
    help="For so long. Without it: hard_bounce 90 days, unknown_user 30, the rest for good.",
)
@_domain_option
@_tenant_option
@_tag_option
@click.option("--detail", metavar="TEXT", default="", help="A remark, shown with the mail.")
@json_option
def add(
    mail: AppMail,
    address: str,
    reason: str,
    expires: float | None,
    domain: str | None,
    tenant: str | None,
    tag: str | None,
    detail: str,
    as_json: bool,
) -> None:
    """Put an address on the list.

    \b
    Examples:
      flask --app myapp mail suppress add ann@example.com --expires 30
      flask --app myapp mail suppress add ann@example.com --reason unsubscribe --tag news
    """
    entry = mail.runtime.suppressions.add(
        address,
        reason,
        domain=domain or "",
        tenant=tenant or "",
        tag=tag or "",
        detail=detail,
        source="cli",
        expires_in=None if expires is None else expires * DAY,
    )
    if as_json:
        print_json(entry_object(entry))
    else:
        say(f"on the list: {_words(entry)}")


@command("list")
@click.option("--address", metavar="ADDRESS", help="Only the entries of this address.")
@click.option("--after", metavar="ADDRESS", default="", help="Go on after this address.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    metavar="N",
    help="About so many, in the order of their addresses.",
)
@json_option
def list_(mail: AppMail, address: str | None, after: str, limit: int, as_json: bool) -> None:
    """Who is on the list, and why.

    \b
    Examples:
      flask --app myapp mail suppress list --address ann@example.com
      flask --app myapp mail suppress list --after m --limit 500 --json
    """
    suppressions = mail.runtime.suppressions
    if address is not None:
        entries = suppressions.of(parse_address(address, "--address").email)
    else:
        entries = suppressions.page(after.lower(), limit)
    if as_json:
        print_json([entry_object(entry) for entry in entries])
    elif not entries:
        warn("nobody is on the list" if address is None else f"{clean(address)} is not on the list")
    else:
        say(*_table(entries))
        if address is None and len(entries) >= limit:
            warn(f"more: flask mail suppress list --after {clean(entries[-1].address, 254)}")


@command("remove")
@click.argument("address", metavar="ADDRESS")
@click.option("--reason", type=_reason, help="Only the entry with this reason.")
@_domain_option
@_tenant_option
@_tag_option
@json_option
def remove(
    mail: AppMail,
    address: str,
    reason: str | None,
    domain: str | None,
    tenant: str | None,
    tag: str | None,
    as_json: bool,
) -> None:
    """Take an address off the list.

    All its entries go, or those that the options name: `--tag ""` is the one for all tags. Mail
    that was kept back meanwhile is not sent by that; `flask mail retry ID` does it.

    \b
    Example:
      flask --app myapp mail suppress remove ann@example.com
    """
    email = parse_address(address, "address").email
    domain = None if domain is None else checked_domain(domain)
    gone = mail.runtime.suppressions.remove(email, reason, domain=domain, tenant=tenant, tag=tag)
    if as_json:
        print_json([entry_object(entry) for entry in gone])
    else:
        say(*(f"off the list: {_words(entry)}" for entry in gone))
    if not gone:
        raise Refused(f"{clean(email, 254)} is not on the list (with these options)")


@command("import")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--reason", type=_reason, default="manual", show_default=True, help="Where a line gives none."
)
@_domain_option
@_tenant_option
@json_option
def import_(
    mail: AppMail,
    file: str,
    reason: str,
    domain: str | None,
    tenant: str | None,
    as_json: bool,
) -> None:
    """Put the addresses of a CSV file on the list.

    The first line may name the columns, as `suppress export` writes them; `address` is the only one
    that must be there. Without such a line, each has an address and, if you like, a reason. Bad
    lines are told with their number, all others are stored, and the exit code is 2. The same file
    may be imported again.

    \b
    Examples:
      flask --app myapp mail suppress import blocked.csv --reason complaint
      flask --app myapp mail suppress import - --domain shop.example.com
    """
    given = {"reason": reason, "domain": domain or "", "tenant": tenant or ""}
    with _opened(file) as lines:
        reading = _Reading(lines, {name: value for name, value in given.items() if value})
        number = mail.runtime.suppressions.put(reading.entries())
    if as_json:
        print_json({"stored": number, "bad_lines": reading.bad})
    else:
        say(f"{number} stored, {output.counted(reading.bad, 'bad line')}")
    if reading.bad:
        leave(EXIT_USAGE)


@command("export")
@json_option
def export(mail: AppMail, as_json: bool) -> None:
    """Print the whole list, as CSV or JSON. The CSV is what `suppress import` takes.

    \b
    Examples:
      flask --app myapp mail suppress export
      flask --app myapp mail suppress export --json
    """
    entries = mail.runtime.suppressions.all()
    if as_json:
        print_json([entry_object(entry) for entry in entries])
        return
    click.echo(_line(COLUMNS), nl=False)
    for entry in entries:
        # The words are a foreign server's, and a spreadsheet would take these for a formula.
        quote = "'" if entry.detail.startswith(("=", "+", "-", "@")) else ""
        found = entry_object(replace(entry, detail=f"{quote}{entry.detail}"))
        click.echo(_line([found[name] or "" for name in COLUMNS]), nl=False)


for _command in (add, list_, remove, import_, export):
    suppress.add_command(_command)


# -- what is printed ----------------------------------------------------------------------------


def entry_object(entry: Suppression) -> dict[str, Any]:
    """An entry as ``--json`` and ``export`` have it."""
    return {
        "address": entry.address,
        "reason": entry.reason.value,
        "domain": entry.domain,
        "tenant": entry.tenant,
        "tag": entry.tag,
        "source": entry.source,
        "detail": entry.detail,
        "created_at": output.iso(moment(entry.created_at)),
        "expires_at": output.iso(moment(entry.expires_at)),
    }


def _table(entries: Sequence[Suppression]) -> list[str]:
    rows = [
        (
            clean(entry.address, 254),
            entry.reason.value,
            clean(_scope(entry)),
            output.when(moment(entry.expires_at)),
            clean(f"{entry.source} {entry.detail}", 80),
        )
        for entry in entries
    ]
    return output.table(("address", "reason", "for", "until", "source"), rows)


def _scope(entry: Suppression) -> str:
    named = {"domain": entry.domain, "tenant": entry.tenant, "tag": entry.tag}
    return ", ".join(f"{name} {value}" for name, value in named.items() if value) or "all mail"


def _words(entry: Suppression) -> str:
    until = f"until {output.when(moment(entry.expires_at))}" if entry.expires_at else "for good"
    return clean(f"{entry.address}: {entry.reason.value}, {_scope(entry)}, {until}")


def _line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


# -- what is read -------------------------------------------------------------------------------


@contextmanager
def _opened(file: str) -> Iterator[IO[str]]:
    """The lines of a file, or of stdin for ``-``.

    :raises Refused: it cannot be opened.
    """
    try:
        lines = click.open_file(file, encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise Refused(f"{clean(file)}: {error.strerror}") from error
    with lines as opened:
        yield opened


class _Reading:
    """A file of addresses, line by line; counts and tells what is wrong with it."""

    def __init__(self, file: IO[str], given: Mapping[str, str]) -> None:
        self._rows = csv.reader(file)
        self._given = given
        self._columns: Sequence[str] = ()
        self.bad = 0

    def entries(self) -> Iterator[Suppression]:
        """The entries of all good lines.

        :raises Refused: the file is no CSV, or names columns that there are not.
        """
        while (cells := self._next()) is not None:
            if not any(cells):
                continue
            if not self._columns:
                header = _header(cells)
                self._columns = header or _WITHOUT_HEADER
                if header:
                    continue
            try:
                yield self._entry(cells)
            except MessageError as error:
                self._tell(str(error))

    def _next(self) -> list[str] | None:
        while True:
            try:
                return [cell.strip() for cell in next(self._rows)]
            except StopIteration:
                return None
            except csv.Error as error:
                self._tell(str(error))

    def _tell(self, what: str) -> None:
        self.bad += 1
        if self.bad <= _TOLD:
            warn(f"line {self._rows.line_num}: {clean(what)}")
        elif self.bad == _TOLD + 1:
            warn("further bad lines are only counted")

    def _entry(self, cells: Sequence[str]) -> Suppression:
        if len(cells) > len(self._columns):
            raise MessageError("line", f"has {len(cells)} cells, {len(self._columns)} are expected")
        if any("\ufffd" in cell for cell in cells):
            raise MessageError("line", "is not UTF-8")
        found = {name: cell for name, cell in zip(self._columns, cells, strict=False) if cell}
        fields: dict[str, Any] = {"source": "import", **self._given, **found}
        for name in ("created_at", "expires_at"):
            if name in fields:
                fields[name] = instant(fields[name], name)
        entry = suppression(fields.pop("address", ""), **fields)
        lifetime = LIFETIME.get(entry.reason)
        # An empty cell of that column means "for good"; without the column, the reason decides.
        if "expires_at" in self._columns or lifetime is None:
            return entry
        return replace(entry, expires_at=(entry.created_at or time.time()) + lifetime)


def _header(cells: Sequence[str]) -> tuple[str, ...]:
    """The columns that a first line names; empty if it is no such line.

    :raises Refused: it names others.
    """
    names = tuple("address" if cell.lower() == "email" else cell.lower() for cell in cells)
    if any("@" in cell for cell in cells) or "address" not in names:
        return ()
    unknown = [clean(name, 40) for name in names if name not in COLUMNS]
    if unknown:
        raise Refused(f"unknown columns: {', '.join(unknown)}; there are {', '.join(COLUMNS)}")
    return names
