"""Hosts out of network namespaces of this machine, each with its own address and its own host name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Host:
    """A host: a network namespace with the address `address` on a network that all of them are on."""

    namespace: str
    name: str
    address: str

    def start(self, *words: object, log: Path) -> subprocess.Popen[str]:
        """`groundup WORDS --json` on this host, whose name no other can look up."""
        groundup = [sys.executable, "-m", "groundup", *map(str, words)]
        renamed = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', self.name, *groundup]
        with log.open("w") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *renamed], stdout=subprocess.PIPE, stderr=file, text=True
            )

    def cut_off(self) -> None:
        """Take this host from the network, as a pulled cable does."""
        _ip("-n", self.namespace, "link", "set", "eth0", "down")

    def back(self) -> None:
        """Plug the cable in again."""
        _ip("-n", self.namespace, "link", "set", "eth0", "up")


@contextmanager
def network(*names: str) -> Iterator[list[Host]]:
    """Hosts on one network, which leads nowhere else. Skips where namespaces can't be made, but not in CI."""
    prefix = f"groundup{os.getpid()}"
    hub = f"{prefix}-hub"
    made: list[str] = []

    def make(name: str) -> None:
        _ip("netns", "add", name)
        made.append(name)
        _ip("-n", name, "link", "set", "lo", "up")

    try:
        try:
            if shutil.which("ip") is None:
                raise OSError("there is no `ip` here")
            make(hub)
            subprocess.run(["unshare", "--uts", "true"], check=True, capture_output=True, text=True)
            _ip("-n", hub, "link", "add", "bridge0", "type", "bridge")
            _ip("-n", hub, "link", "set", "bridge0", "up")
            found = []
            for number, name in enumerate(names, start=1):
                host = Host(f"{prefix}-{name}", f"host-{name}", f"10.77.0.{number}")
                make(host.namespace)
                end = f"port{number}"
                _ip("-n", hub, "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
                _ip("-n", hub, "link", "set", end, "master", "bridge0", "up")
                _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
                _ip("-n", host.namespace, "link", "set", "eth0", "up")
                found.append(host)
        except (OSError, subprocess.CalledProcessError) as error:
            why = f"network namespaces can't be made here: {getattr(error, 'stderr', '') or error}"
            if os.environ.get("CI"):
                pytest.fail(f"CI must be able to: {why}", pytrace=False)
            pytest.skip(why)
        yield found
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
