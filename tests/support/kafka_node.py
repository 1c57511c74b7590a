"""Apache Kafka for the tests, without containers: KRaft nodes run with this machine's Maven and Java.

The jars named in tests/kafka/pom.xml are copied once into a cache folder: the one in TOCSIN_TEST_KAFKA_JARS, or
`tocsin/kafka-HASH` under the user's cache folder. Every node is broker and controller, listens on 127.0.0.1 only,
keeps its data in a folder of its own, and ends with this process.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from streams.broker import HOST, tied_to_parent

POM: Final = Path(__file__).parents[1] / "kafka" / "pom.xml"
HEAP: Final = "512m"
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
RESOLVE_SECONDS: Final = 600.0
_STARTED: Final = "Kafka Server started"
_TAIL_BYTES: Final = 4_000


class KafkaUnavailableError(RuntimeError):
    """This machine lacks what the broker needs: Java, Maven, or the jars."""


class KafkaStartError(RuntimeError):
    """A node ended or did not come up in time; the message holds the end of its log."""


def kafka_is_required() -> bool:
    """Whether a missing broker is a failure (TOCSIN_TEST_REQUIRE_KAFKA=1) and not a reason to skip."""
    return os.environ.get("TOCSIN_TEST_REQUIRE_KAFKA") == "1"


def java_program() -> str:
    """The path of `java`, from JAVA_HOME or PATH.

    Raises:
        KafkaUnavailableError: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=Path(home) / "bin") if home else None
    found = found or shutil.which("java")
    if found is None:
        raise KafkaUnavailableError(
            "Java is missing: install a JDK or JRE, 17 or later, to run Apache Kafka."
        )
    return found


def kafka_jars() -> Path:
    """The folder with the broker's jars, resolved through Maven when it is not there yet.

    Raises:
        KafkaUnavailableError: no Maven, or Maven could not resolve the pom.
    """
    target = _jar_folder()
    if target.is_dir():
        return target
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaUnavailableError(
            f"Maven (mvn) is missing, and {target} does not hold Apache Kafka's jars yet."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    # Copied beside the target and renamed: a folder under its final name is always complete.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="resolving-") as scratch:
        jars = Path(scratch) / "jars"
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        try:
            result = subprocess.run(
                [maven, "--batch-mode", "--quiet", "--file", str(POM), *goal],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=RESOLVE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise KafkaUnavailableError(
                f"Maven took more than {RESOLVE_SECONDS:g} s to resolve {POM}."
            ) from error
        if result.returncode != 0 or not any(jars.glob("kafka_2.13-*.jar")):
            output = result.stdout.decode("utf-8", "replace")[-_TAIL_BYTES:]
            raise KafkaUnavailableError(
                f"Maven could not resolve {POM} (exit {result.returncode}):\n{output}"
            )
        try:
            jars.rename(target)
        except OSError:
            # Another test run was faster; its folder is as good.
            if not target.is_dir():
                raise
    return target


def _jar_folder() -> Path:
    given = os.environ.get("TOCSIN_TEST_KAFKA_JARS")
    if given:
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tocsin" / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class ExtraListener:
    """A listener beside the plain one, such as one with TLS; its settings are written without `listener.name.NAME.`."""

    name: str
    protocol: str
    settings: Mapping[str, object]


@dataclass(slots=True)
class KafkaNode:
    """One broker and controller. Ports and folder stay the same over `kill` or `stop` and `start`."""

    node_id: int
    port: int
    controller_port: int
    folder: Path
    java: str
    jars: Path
    extra: Sequence[tuple[ExtraListener, int]] = ()
    more_settings: Mapping[str, object] = field(default_factory=dict)
    scram: Sequence[str] = ()
    host: str = HOST
    within: Sequence[str] = ()
    """A command that runs the broker somewhere else, such as in another network namespace."""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _log_start: int = field(default=0, repr=False)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def address_of(self, listener: str) -> str:
        """HOST:PORT of an extra listener."""
        return next(f"{self.host}:{port}" for each, port in self.extra if each.name == listener)

    @property
    def log_file(self) -> Path:
        return self.folder / "broker.log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def format(self, cluster_id: str, voters: str, nodes: int) -> None:
        """Write the settings and format the storage."""
        self.folder.mkdir(parents=True)
        self._settings_file.write_text(self._settings(voters, nodes))
        command = self._command("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c")
        with self.log_file.open("ab") as log:
            status = subprocess.run(
                [
                    *command,
                    str(self._settings_file),
                    *(word for each in self.scram for word in ("--add-scram", each)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=START_SECONDS,
                check=False,
            ).returncode
        if status != 0:
            raise KafkaStartError(
                f"Formatting node {self.node_id} failed (exit {status}):\n{self.log_tail()}"
            )

    def start(self) -> None:
        """Start the process; `wait_until_started` says when it serves."""
        if self.running:
            raise KafkaStartError(f"Node {self.node_id} already runs at {self.address}.")
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                tied_to_parent([*self.within, *self._command("kafka.Kafka"), str(self._settings_file)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_started(self) -> None:
        """Wait for the line the broker writes when it serves, at most 60 s."""
        deadline = time.monotonic() + START_SECONDS
        while not self._has_started():
            if not self.running:
                status = None if self._process is None else self._process.returncode
                raise KafkaStartError(f"Node {self.node_id} ended (exit {status}). Log:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise KafkaStartError(
                    f"Node {self.node_id} did not start within {START_SECONDS:g} s. Log:\n{self.log_tail()}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """An orderly end (SIGTERM), by force after 15 s."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """SIGSTOP: the node keeps its connections but answers nothing until `resume`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def log_tail(self) -> str:
        """The last 4,000 bytes of the node's log."""
        if not self.log_file.exists():
            return "(no log)"
        return self.log_file.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace")

    @property
    def _settings_file(self) -> Path:
        return self.folder / "server.properties"

    def _has_started(self) -> bool:
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return _STARTED.encode() in log.read()

    def _command(self, main_class: str, *arguments: str) -> list[str]:
        # The first compiler tier and the serial collector start fastest, and leave the second core to the tests.
        machine = [f"-Xmx{HEAP}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"]
        log = "-Dorg.slf4j.simpleLogger."
        quiet = [f"{log}defaultLogLevel=warn", f"{log}showDateTime=true", f"{log}dateTimeFormat=HH:mm:ss.SSS"]
        started_line = f"{log}log.kafka.server.KafkaRaftServer=info"
        classes = ["-cp", str(self.jars / "*")]
        return [self.java, *machine, *quiet, started_line, *classes, main_class, *arguments]

    def _settings(self, voters: str, nodes: int) -> str:
        copies = min(nodes, 3)
        in_sync = min(nodes, 2)
        settings = {
            "process.roles": "broker,controller",
            "node.id": self.node_id,
            "controller.quorum.voters": voters,
            "listeners": ",".join([self._listeners(), f"CONTROLLER://{self.host}:{self.controller_port}"]),
            "advertised.listeners": self._listeners(),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": ",".join(
                [
                    "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
                    *(f"{each.name}:{each.protocol}" for each, _ in self.extra),
                ]
            ),
            "log.dirs": self.folder / "data",
            "default.replication.factor": copies,
            "min.insync.replicas": in_sync,
            # The engine creates its topics itself; a typing error must not create one.
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": nodes,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.num.partitions": nodes,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.num.partitions": nodes,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": in_sync,
            # The defaults, 3 s of waiting for more members and a session of at least 6 s, only slow tests down.
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1_000,
        }
        of_listeners = {
            f"listener.name.{each.name.lower()}.{name}": value
            for each, _ in self.extra
            for name, value in each.settings.items()
        }
        every = settings | of_listeners | dict(self.more_settings)
        return "".join(f"{name}={value}\n" for name, value in every.items())

    def _listeners(self) -> str:
        extra = (f"{each.name}://{self.host}:{port}" for each, port in self.extra)
        return ",".join([f"PLAINTEXT://{self.host}:{self.port}", *extra])


class KafkaCluster:
    """KRaft nodes that form one cluster; a context manager that starts them all and ends them all.

    Args:
        nodes: 1 or more, each broker and controller.
        listeners: what each node listens on beside plain text.
        scram: users, as `kafka-storage format --add-scram` takes them.
        more_settings: settings of every node that go before the usual ones.
        places: for each node the address it listens on, and the command that runs it there (empty: as it is).
    """

    def __init__(
        self,
        nodes: int = 1,
        *,
        listeners: Sequence[ExtraListener] = (),
        scram: Sequence[str] = (),
        more_settings: Mapping[str, object] | None = None,
        places: Sequence[tuple[str, Sequence[str]]] = (),
    ) -> None:
        java, jars = java_program(), kafka_jars()
        self._folder = Path(tempfile.mkdtemp(prefix="tocsin-kafka-"))
        ports = _free_ports((2 + len(listeners)) * nodes)
        extra = iter(ports[2 * nodes :])
        self.nodes = [
            KafkaNode(
                number,
                ports[2 * number - 2],
                ports[2 * number - 1],
                self._folder / str(number),
                java,
                jars,
                [(each, next(extra)) for each in listeners],
                more_settings or {},
                scram,
                *(places[number - 1] if places else ()),
            )
            for number in range(1, nodes + 1)
        ]

    @property
    def bootstrap(self) -> str:
        """HOST:PORT of every node, comma separated, for a client's bootstrap servers."""
        return ",".join(node.address for node in self.nodes)

    def start(self) -> None:
        """Format and start every node.

        Raises:
            KafkaStartError: one did not come up; all are ended.
        """
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        voters = ",".join(f"{node.node_id}@{node.host}:{node.controller_port}" for node in self.nodes)
        try:
            for node in self.nodes:
                node.format(cluster_id, voters, len(self.nodes))
            for node in self.nodes:
                node.start()
            for node in self.nodes:
                node.wait_until_started()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every node by force (nothing is kept) and remove the data."""
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _free_ports(count: int) -> list[int]:
    """Different ports, since all are held at the same time before they are let go."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
