"""Real brokers, and real workers of Celery and RQ as processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from .engine_app import BROKER, FOLDER, QUEUE, celery_for
from .services import require_service
from .waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

#: Name -> (port, URL for Celery).
BROKERS = {
    "redis": (6379, "redis://127.0.0.1:6379/0"),
    "rabbitmq": (5672, "amqp://guest:guest@127.0.0.1:5672//"),
}


def require_broker(name: str) -> str:
    """The URL of a broker; the test is skipped where it is not."""
    port, url = BROKERS[name]
    with socket.socket() as probe:
        probe.settimeout(2)
        is_here = probe.connect_ex(("127.0.0.1", port)) == 0
    require_service(name, is_here, f"looked for at 127.0.0.1:{port}")
    return url


def new_queue() -> str:
    """A name that no other test has."""
    return f"deferred-mail-test-{uuid.uuid4().hex[:12]}"


def closed_port() -> int:
    """A port of this machine where nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
    return port


@contextmanager
def silent_broker() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


class CutWire:
    """A wire to a port of this machine that can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._ends: list[socket.socket] = []
        self.connections = 0

    def __enter__(self) -> CutWire:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self.cut()

    def _accept(self) -> None:
        with self._server, suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                self.connections += 1
                for here, there in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(here, there), daemon=True).start()

    def _carry(self, here: socket.socket, there: socket.socket) -> None:
        with here, suppress(OSError):
            while data := here.recv(65_536):
                there.sendall(data)
        with suppress(OSError):
            there.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End all connections, as a broker that is restarted does."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()


class Worker:
    """One worker, with its children in a session of their own."""

    def __init__(self, command: list[str], log: Path, environ: dict[str, str], ready: str) -> None:
        self.log = log
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLASK_")}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**inherited, **environ},
                start_new_session=True,
            )
        try:
            self.wait_for(ready)
        except BaseException:
            self.kill()
            raise

    def wait_for(self, words: str) -> None:
        """Wait until it has said this."""

        def said() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return words in self.log.read_text()

        try:
            wait_until(said, timeout=60)
        except AssertionError as error:
            raise AssertionError(self.log.read_text()) from error

    def stop(self) -> None:
        """End it as a service manager does."""
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it and its children without a word."""
        for pid in self._session():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(20)

    def _session(self) -> Iterator[int]:
        """Its processes; a child of RQ's leaves the process group, not the session."""
        if self.process.poll() is None:
            yield self.process.pid
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(ProcessLookupError):
                if os.getsid(int(entry.name)) == self.process.pid:
                    yield int(entry.name)


class Workers:
    """Starts workers for one test's application."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.queue, self._stack = folder, new_queue(), stack

    def _start(self, name: str, command: list[str], ready: str, environ: dict[str, str]) -> Worker:
        environ = {FOLDER: str(self.folder), QUEUE: self.queue, **environ}
        log = self.folder / f"{name}-worker.log"
        worker = Worker(command, log, environ, ready)
        self._stack.callback(worker.kill)
        return worker

    def celery(self, broker: str, **environ: str) -> Worker:
        """A Celery worker with two processes."""
        self._stack.callback(self.forget_celery, broker)
        return self._start(
            "celery",
            [
                *("-m", "celery", "--app", "tests.support.engine_worker", "worker"),
                *("--loglevel=INFO", "--concurrency=2", "--without-gossip", "--without-mingle"),
                f"--hostname={self.queue}@%h",
            ],
            " ready.",
            {BROKER: broker, "FLASK_DEFERRED_MAIL_DISPATCH": "celery", **environ},
        )

    def take_away(self, engine: str, broker: str) -> int:
        """Remove the messages for which there was no worker. Returns how many there were."""
        import redis
        from rq import Queue

        if engine == "rq":
            with closing(redis.Redis.from_url(broker)) as client:
                number: int = Queue(self.queue, connection=client).count
            self.forget_rq()
            return number
        with celery_for("counter", broker, self.queue).connection() as connection:
            number = connection.default_channel.queue_purge(self.queue)
        self.forget_celery(broker)
        return number

    def forget_celery(self, broker: str) -> None:
        """Remove what Celery leaves behind in the broker."""
        if broker.startswith("redis"):
            forget_keys(f"{self.queue}:*")
            return
        with celery_for("cleaner", broker, self.queue).connection() as connection:
            channel = connection.default_channel
            for delete in (channel.queue_delete, channel.exchange_delete):
                delete(self.queue)

    def forget_rq(self) -> None:
        """Remove what RQ (or Huey) leaves behind in Redis; jobs do not have the queue's name."""
        import redis

        with closing(redis.Redis.from_url(BROKERS["redis"][1])) as client:
            for key in client.scan_iter("rq:job:*", _type="hash"):
                if client.hget(key, "origin") == self.queue.encode():
                    client.delete(key)
        forget_keys(f"*{self.queue}*")

    def of_page(self, command: list[str], ready: str, **environ: str) -> Worker:
        """A worker that runs what the test has copied out of a page into its folder."""
        self._stack.callback(self.forget_rq)
        paths = os.pathsep.join([str(self.folder), str(ROOT)])
        return self._start("page", command, ready, {"PYTHONPATH": paths, **environ})

    def rq(self, url: str, **environ: str) -> Worker:
        """An RQ worker, which forks for every job."""
        self._stack.callback(self.forget_rq)
        return self._start(
            "rq",
            ["-c", "from rq.cli import main; main()", "worker", "--url", url, self.queue],
            "Listening on",
            {
                "FLASK_APP": "tests.support.engine_app:create_app",
                "FLASK_DEFERRED_MAIL_DISPATCH": "rq",
                "FLASK_DEFERRED_MAIL_RQ": f"{url}?queue={self.queue}",
                **environ,
            },
        )


def forget_keys(pattern: str) -> None:
    """Delete a test's keys in Redis."""
    import redis

    with closing(redis.Redis.from_url(BROKERS["redis"][1])) as client:
        for key in client.scan_iter(pattern):
            client.delete(key)
