"""Refuse every network address but loopback. Python runs this file by itself where its folder is on PYTHONPATH."""

import ipaddress
import socket
import sys
from typing import Any

sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # seconds in each process: see clean_notebook.py

REFUSED = "tests may not use the network"


def _is_local(host: Any) -> bool:
    """Decide without asking a name server."""
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _check(family: int, address: Any) -> None:
    if family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
        raise OSError(f"{REFUSED}: {address[0]}")


def refuse_network() -> None:
    """Guard the sockets of this process; a second call changes nothing."""
    if getattr(socket, "refuses_network", False):
        return
    connect, connect_ex, sendto = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto
    getaddrinfo = socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _check(self.family, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _check(self.family, address)
        return connect_ex(self, address)

    def guarded_sendto(self: socket.socket, data: Any, *rest: Any) -> int:
        _check(self.family, rest[-1])
        return sendto(self, data, *rest)

    def guarded_getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
        if not _is_local(host):
            raise socket.gaierror(socket.EAI_FAIL, f"{REFUSED}: {host}")
        return getaddrinfo(host, *rest, **options)

    socket.socket.connect, socket.socket.connect_ex = guarded_connect, guarded_connect_ex  # type: ignore[method-assign]
    socket.socket.sendto, socket.getaddrinfo = guarded_sendto, guarded_getaddrinfo  # type: ignore
    socket.refuses_network = True  # type: ignore[attr-defined]


refuse_network()
