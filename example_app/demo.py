"""The promise, shown on this machine: ``python -m example_app.demo`` (or ``make demo``).

A site behind gunicorn, a mail server that takes its time, people who sign up, and a worker that is
killed in the middle of it. Everything runs on 127.0.0.1 and in a temporary folder, and ends by
itself. Exit code 0: all of it was so. 1: something was not, and the last lines say what.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from .local_site import LocalSite, SiteFailed, waited
from .slow_smtp import Cut, Phase, SlowSmtpServer
from .visitor import SignUp, sign_up

#: Seconds after which another process may take over the mails of a dead one. The default is 60:
#: nobody wants to watch that.
LEASE = 3

#: Seconds of the limit that are kept back for ending every process: gunicorn may take five.
RESERVE = 7


class NotSo(Exception):
    """Something that the demo is there to show did not happen; the text says what."""


class OutOfTime(NotSo):
    """The limit was reached."""


@dataclass
class Findings:
    """What happened, for the count at the end."""

    sign_ups: list[SignUp] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)
    outbox: dict[str, int] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, options.limit - RESERVE))
    started = time.monotonic()
    try:
        good = show(options)
    except (NotSo, SiteFailed) as error:
        print(f"\nNOT SO: {error}", flush=True)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; everything that was started has ended.", flush=True)
        return 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    print(f"\n{'All of it was so' if good else 'NOT all of it was so'}", end=" ")
    print(f"({time.monotonic() - started:.0f} s).", flush=True)
    return 0 if good else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m example_app.demo", description=__doc__)
    parser.add_argument("--people", type=int, default=24, help="how many sign up at once (24)")
    parser.add_argument("--workers", type=int, default=3, help="gunicorn workers (3)")
    parser.add_argument("--delay", type=float, default=0.3, help="seconds before each reply (0.3)")
    parser.add_argument(
        "--database", metavar="URL", help="an empty one, postgresql+psycopg://... (a SQLite file)"
    )
    parser.add_argument("--limit", type=float, default=60, help="seconds it may take at most (60)")
    options = parser.parse_args(arguments)
    if options.people < 4 or options.workers < 2 or options.delay < 0.05:
        parser.error("it takes 4 people, 2 workers and a delay of 0.05 s to see anything")
    return options


def out_of_time(*_: object) -> None:
    """The alarm clock rang."""
    raise OutOfTime("the time limit was reached before everything was done (see above how far)")


def show(options: argparse.Namespace) -> bool:
    """The whole story; whether everything in it was as promised."""
    title("flask-deferred-mail: the answer first, then the mail, and none is lost")
    found = Findings()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deferred-mail-")))
        server = stack.enter_context(SlowSmtpServer(made(folder / "inbox"), options.delay))
        site = stack.enter_context(start_site(folder, server, options))
        found.pids.update(site.pids())
        one_person(site, server, found)
        burst_and_kill(site, server, found, options.people)
        sweep_until_done(site, found)
        found.pids.update(site.pids())
        good = count(server, found)
    return left_behind(found) and good


# -- the steps --------------------------------------------------------------------------------


def start_site(folder: Path, server: SlowSmtpServer, options: argparse.Namespace) -> LocalSite:
    """Step 1: the mail server runs already; the site is started with it as its transport."""
    step(1, "A site and a slow mail server")
    site = LocalSite(
        folder,
        {
            "DEFERRED_MAIL_TRANSPORT": f"smtp://127.0.0.1:{server.port}?tls=none",
            "DEFERRED_MAIL_LEASE": LEASE,
            "EXAMPLE_INBOX": server.folder,
        },
        workers=options.workers,
        database=options.database,
    )
    if any(site.status()["counts"].values()):
        raise NotSo("there is mail in that database already, and the count needs an empty one")
    kept = (options.database or "").partition(":")[0] or "SQLite in a temporary folder"
    line("mail server", f"127.0.0.1:{server.port}, waits {server.delay:g} s before each reply")
    line("site", f"{site.url}, gunicorn with {options.workers} workers, {kept}")
    return site


def one_person(site: LocalSite, server: SlowSmtpServer, found: Findings) -> None:
    """Step 2: how long does the answer take, and how much later is the mail there?"""
    step(2, "Ann signs up")
    ann = sign_up(site.port, "Ann", "ann@people.example")
    found.sign_ups.append(ann)
    if not ann.answered:
        raise NotSo(f"the sign-up was answered with {ann.status}, not with 303")
    line("the answer", f"was complete after {ann.seconds:.2f} s")
    if not waited(lambda: bool(server.deliveries()), seconds=15):
        raise NotSo("her mail was not there 15 s after the answer")
    later = server.deliveries()[0].taken_at - ann.answered_at
    line("her mail", f"was in the mail server's hands {later:.2f} s after that")
    if later <= 0:
        raise NotSo("the mail was there before the answer, so the answer waited for it")


def burst_and_kill(site: LocalSite, server: SlowSmtpServer, found: Findings, people: int) -> None:
    """Step 3: many sign up at once, and one worker is killed with their mails in its hands."""
    step(3, f"{people} people sign up, six at a time, and a worker is killed meanwhile")
    crowd = ThreadPoolExecutor(6)
    try:
        tries = [
            crowd.submit(sign_up, site.port, f"Person {n}", f"person-{n:03}@people.example")
            for n in range(1, people + 1)
        ]
        found.cuts = kill_one(site, server, tries)
        found.sign_ups += [one.result() for one in tries]
    finally:
        crowd.shutdown(wait=False, cancel_futures=True)
    asked = found.sign_ups[1:]
    answered = sum(one.answered for one in asked)
    line("sign-ups", f"{answered} answered, {len(asked) - answered} cut off by the kill")
    refused = sorted({one.status for one in asked if one.status not in (303, None)})
    if refused:
        raise NotSo(f"some sign-ups were answered with {refused}")
    line("mails", f"{len(server.deliveries())} taken by the mail server so far")


def kill_one(site: LocalSite, server: SlowSmtpServer, tries: list[Future[SignUp]]) -> list[Cut]:
    """Kill a worker that is handing over a mail; the conversations that this cut off.

    Which worker holds which connection is not to be seen from outside, but the mail server sees
    whose line goes dead: if the first worker had none, the next one has to go.
    """
    half = len(tries) // 2
    if not waited(lambda: sum(one.done() for one in tries) >= half, seconds=20):
        raise NotSo("half of the sign-ups had no answer after 20 s")
    before = len(server.cuts)
    for pid in site.worker_pids():
        if not waited(lambda: server.in_flight() > 0, seconds=5):
            raise NotSo("no mail was on its way while people signed up")
        site.kill_worker(pid)
        line("SIGKILL", f"worker {pid}, after {sum(one.done() for one in tries)} answers")
        if waited(lambda: any(is_mail(cut) for cut in server.cuts[before:]), seconds=1):
            waited(lambda: False, seconds=0.2)  # the other lines of the same process
            return told(server.cuts[before:])
        line("", "it had no mail in its hands: the next one")
    raise NotSo("no worker had a mail in its hands when it was killed")


def is_mail(cut: Cut) -> bool:
    """Whether a mail was under way when the line went dead."""
    return cut.phase is not Phase.IDLE


def told(cuts: list[Cut]) -> list[Cut]:
    """Say where the dead worker's conversations stood; the same list."""
    for phase, number in Counter(cut.phase for cut in cuts).items():
        line("", f"mail conversations cut off {phase}: {number}")
    return cuts


def sweep_until_done(site: LocalSite, found: Findings) -> None:
    """Step 4: what cron would do each minute, until nothing waits any more."""
    step(4, f"The sweep takes what is left (the dead worker's mails after {LEASE} s)")
    for number in itertools.count():
        done = site.sweep()
        found.outbox = site.status()["counts"]
        waiting = found.outbox["pending"] + found.outbox["sending"]
        shown = ", ".join(f"{word} {n}" for word, n in done.items() if n) or "nothing was due"
        line("again" if number else "mail sweep", f"{shown}; {waiting or 'none'} left")
        if not waiting:
            return
        time.sleep(0.5)


# -- the count --------------------------------------------------------------------------------


def count(server: SlowSmtpServer, found: Findings) -> bool:
    """Step 5: hold what arrived against what was promised."""
    step(5, "The count")
    taken = server.deliveries()
    ids: dict[str, set[str]] = {}
    for mail in taken:
        for address in mail.recipients:
            ids.setdefault(address, set()).add(mail.message_id)
    answered = {one.email for one in found.sign_ups if one.answered}
    asked = {one.email for one in found.sign_ups}
    distinct = {mail.message_id for mail in taken}
    extra = len(taken) - len(distinct)
    others = {status: n for status, n in found.outbox.items() if n and status != "sent"}
    checks = [
        check(
            answered <= set(ids),
            f"{len(answered)} sign-ups were answered, and "
            f"{len(answered & set(ids))} of them have their mail",
        ),
        check(
            set(ids) <= asked and len(distinct) == len(ids) and "" not in distinct,
            f"{len(distinct)} different Message-IDs for {len(ids)} people: nobody has two mails",
        ),
        check(
            extra <= len(found.cuts),
            f"extra copies, with the same Message-ID: {extra} (at most {len(found.cuts)}, as many "
            "connections did the kill cut off)",
        ),
        check(
            not others and found.outbox["sent"] == len(distinct),
            f"the outbox shows {found.outbox['sent']} sent, and of every other kind "
            + (", ".join(f"{n} {status}" for status, n in others.items()) or "none"),
        ),
    ]
    unanswered = len(set(ids) - answered)
    if unanswered:
        line("by the way", f"{unanswered} cut off before the answer, yet recorded, so mailed")
    return all(checks)


def left_behind(found: Findings) -> bool:
    """Whether all processes that were started have ended."""
    waited(lambda: not any(map(is_alive, found.pids)), seconds=2)
    alive = sorted(filter(is_alive, found.pids))
    return check(not alive, f"processes left behind: {alive or 'none'}")


def is_alive(pid: int) -> bool:
    """Whether a process of that number still runs. One that nobody has buried yet does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return True  # a system without /proc


def check(so: bool, text: str) -> bool:
    """Print one finding; whether it was so."""
    line("ok" if so else "NOT SO", text)
    return so


# -- how it looks -----------------------------------------------------------------------------


def title(text: str) -> None:
    """The first line."""
    print(f"{text}\n{'=' * len(text)}", flush=True)


def step(number: int, text: str) -> None:
    """The heading of a step."""
    print(f"\n{number}. {text}", flush=True)


def line(what: str, text: str) -> None:
    """One line of a step."""
    print(f"   {what:<13}{text}", flush=True)


def made(folder: Path) -> Path:
    """The folder, which exists from now on."""
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
