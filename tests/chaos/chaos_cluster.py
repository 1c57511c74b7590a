"""The brokers of a chaos run, and what is done to them: killed, bounced, cut off from the network."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kafka_node import KafkaCluster, KafkaNode

from streams.broker import tied_to_parent


@dataclass
class Namespace:
    """A network namespace with one cable into it; it is gone when its process ends."""

    inside: str
    outside: str
    _process: subprocess.Popen[bytes]

    @property
    def within(self) -> Sequence[str]:
        """The command that runs another one in it."""
        return (str(shutil.which("nsenter")), f"--net=/proc/{self._process.pid}/ns/net", "--")

    def cut(self) -> None:
        self._run(*self.within, "ip", "link", "set", "chaos", "down")

    def mend(self) -> None:
        self._run(*self.within, "ip", "link", "set", "chaos", "up")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    @classmethod
    def open(cls) -> Namespace | None:
        """None where this machine does not allow it."""
        unshare, nsenter, ip = (shutil.which(name) for name in ("unshare", "nsenter", "ip"))
        if not (sys.platform.startswith("linux") and unshare and nsenter and ip):
            return None
        process = subprocess.Popen(
            tied_to_parent([unshare, "--net", str(shutil.which("sleep")), "1000000"]),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        own = Path("/proc/self/ns/net").readlink()
        deadline = time.monotonic() + 5
        with contextlib.suppress(OSError):
            while process.poll() is None and time.monotonic() < deadline:
                if Path(f"/proc/{process.pid}/ns/net").readlink() != own:
                    break
                time.sleep(0.02)
        number = process.pid % 60_000
        network = f"10.{200 + number // 16_384}.{number // 64 % 256}.{number % 64 * 4}"
        base, last = network.rpartition(".")[0], int(network.rpartition(".")[2])
        made = cls(f"{base}.{last + 2}", f"{base}.{last + 1}", process)
        name = f"chaos{process.pid}"
        try:
            made._run(
                ip, "link", "add", name, "type", "veth", "peer", "name", "chaos", "netns", str(process.pid)
            )
            made._run(ip, "address", "add", f"{made.outside}/30", "dev", name)
            made._run(ip, "link", "set", name, "up")
            for words in (
                ("address", "add", f"{made.inside}/30", "dev", "chaos"),
                ("link", "set", "chaos", "up"),
                ("link", "set", "lo", "up"),
            ):
                made._run(*made.within, "ip", *words)
        except (OSError, subprocess.CalledProcessError):
            made.close()
            return None
        return made

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)


class Brokers:
    """A cluster of one node or three; of three the last may be cut off from the others and from everybody."""

    def __init__(self, cluster: KafkaCluster, namespace: Namespace | None) -> None:
        self.cluster = cluster
        self.namespace = namespace

    @property
    def bootstrap(self) -> list[str]:
        return self.cluster.bootstrap.split(",")

    @property
    def how_cut_off(self) -> str:
        return (
            "in a network namespace, its cable pulled"
            if self.namespace
            else "by SIGSTOP (no namespaces here)"
        )

    async def kill_and_return(self, node: KafkaNode, seconds: float) -> None:
        """SIGKILL, and a start some seconds later."""
        node.kill()
        await asyncio.sleep(seconds)
        node.start()
        await asyncio.to_thread(node.wait_until_started)

    async def bounce(self, node: KafkaNode) -> None:
        """An orderly end and a start."""
        await asyncio.to_thread(node.stop)
        node.start()
        await asyncio.to_thread(node.wait_until_started)

    async def cut_off(self, seconds: float) -> None:
        """The last node hears nobody, and nobody hears it, for a while."""
        [*_, node] = self.cluster.nodes
        if self.namespace is None:
            node.pause()
        else:
            self.namespace.cut()
        try:
            await asyncio.sleep(seconds)
        finally:
            if self.namespace is None:
                node.resume()
            else:
                self.namespace.mend()


@contextlib.contextmanager
def brokers(nodes: int) -> Iterator[Brokers]:
    """Start a cluster; end it afterwards.

    Raises:
        KafkaUnavailableError: no Java, or no jars.
    """
    namespace = Namespace.open() if nodes > 1 else None
    try:
        places: list[tuple[str, Sequence[str]]] = []
        if namespace is not None:
            places = [(namespace.outside, ())] * (nodes - 1) + [(namespace.inside, namespace.within)]
        with KafkaCluster(nodes, places=places) as cluster:
            yield Brokers(cluster, namespace)
    finally:
        if namespace is not None:
            namespace.close()
