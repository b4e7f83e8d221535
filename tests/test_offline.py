"""The guard of conftest.py refuses the network in this process and in those it starts."""

import os
import socket
import subprocess
import sys

import pytest

OUTSIDE = ("192.0.2.1", 80)  # TEST-NET-1: belongs to nobody, so that a hole in the guard harms nobody
ATTEMPT = f"import socket; socket.create_connection({OUTSIDE}, timeout=2)"


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_refuses_outside_addresses(method: str) -> None:
    with socket.socket() as sock, pytest.raises(OSError, match="may not use the network"):
        getattr(sock, method)(OUTSIDE)


def test_refuses_names_and_datagrams() -> None:
    with pytest.raises(OSError, match="may not use the network"):
        socket.create_connection(("example.com", 443), timeout=2)
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(OSError, match="may not use the network"):
        sock.sendto(b"x", OUTSIDE)


def test_refuses_in_a_child() -> None:
    child = subprocess.run([sys.executable, "-c", ATTEMPT], capture_output=True, text=True)
    assert child.returncode != 0
    assert "may not use the network" in child.stderr


def test_loopback_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_no_keys_are_visible() -> None:
    assert not [name for name in os.environ if name.startswith(("OPENAI_", "OWUI_", "HF_TOKEN"))]
    assert os.environ["HF_HUB_OFFLINE"] == "1"
