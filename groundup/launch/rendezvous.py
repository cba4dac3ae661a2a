"""Where nodes meet: a key-value store on any host, and the way from a node to it."""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from groundup.console import say
from groundup.errors import UserError

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

ANY = "any"  # in place of an address to listen on: all that this host has
REACH_SECONDS = 900.0  # how long a node waits for the rendezvous to come up
SILENCE_SECONDS = 20  # how long the host of the rendezvous may be silent; below the time after which a node is lost
_SIOCGIFADDR = 0x8915  # of Linux: the IPv4 address of an interface


def serve(host: str, port: int) -> TCPStore:
    """A store that listens on `host` (ANY: on every address) and `port` (0: any free one), while it is referred to.

    Raises UserError where it can't listen there.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        if host != ANY:
            listening = socket.create_server((host, port), family=_family(host, port), backlog=1024)
        else:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            listening = socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(
            f"can't listen on {host}, port {port}: {error.strerror}",
            where="groundup rendezvous",
            advice="Give another --port or --host",
        ) from None
    port = listening.getsockname()[1]
    own = "localhost" if host == ANY else host
    return TCPStore(own, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())


def connect(host: str, port: int, patience: float = REACH_SECONDS) -> TCPStore:
    """A client of the store there. Waits until the store is up.

    Raises UserError where nothing answers for `patience` seconds.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    start, said = time.monotonic(), False
    # Waiting within the client would leave Ctrl-C without effect, so the wait is here.
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            break
        except OSError as error:
            if time.monotonic() - start > patience:
                raise UserError(
                    f"no rendezvous answers at {host}:{port} ({error})",
                    where="--rendezvous",
                    advice=f"Start one there: groundup rendezvous --host {host} --port {port}",
                ) from None
            if not said:
                say(f"waiting for the rendezvous at {host}:{port}")
                said = True
            time.sleep(0.3)
    store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=60))
    end_when_silent(port)
    return store


def end_when_silent(port: int) -> None:
    """Have this process's connections to that port break once the other host is silent for SILENCE_SECONDS.

    A store's client waits for its answer without end, and so would a node whose link is cut.
    """
    if sys.platform != "linux":
        return
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(number)) as connection:
                if connection.type != socket.SOCK_STREAM or connection.getpeername()[1:2] != (port,):
                    continue
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_SECONDS // 4)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE_SECONDS // 4)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * SILENCE_SECONDS)
        except OSError:  # closed meanwhile, or not connected
            continue


def _family(host: str, port: int) -> socket.AddressFamily:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]


def local_address(host: str, port: int) -> str:
    """This node's address on the route to `host`. Names of hosts need not be resolvable for it. Nothing is sent."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        found: str = probe.getsockname()[0]
        return found


def interface(address: str) -> str | None:
    """The network interface that has this address; None where that can't be told."""
    if sys.platform != "linux":
        return None
    if ":" in address:
        wanted = socket.inet_pton(socket.AF_INET6, address.partition("%")[0]).hex()
        with open("/proc/net/if_inet6") as lines:
            return next((line.split()[-1] for line in lines if line.startswith(wanted)), None)
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def run_forever(host: str, port: int) -> int:
    """Serve a rendezvous until Ctrl-C or SIGTERM; its port."""
    stops = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # before the store has threads that could take them
    store = serve(host, port)
    say(f"rendezvous at {socket.gethostname() if host == ANY else host}:{store.port}; Ctrl-C ends it")
    signal.sigwait(stops)
    return store.port
