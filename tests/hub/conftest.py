"""A Hub on this machine and clients for it; see hub_server.py and hub_clients.py."""

import subprocess
from collections.abc import Callable

import pytest
from forked_python import HUB_PORT, ForkedPython
from hub_clients import Clients
from hub_server import HubServer


@pytest.fixture
def hub(tmp_path):
    """A running `HubServer` with the users of `hub_server.TOKENS` and its storage in `tmp_path`."""
    with HubServer(tmp_path / "hub", port=HUB_PORT) as server:
        yield server
    assert not server.errors, "\n".join(server.errors)


@pytest.fixture(scope="module")
def module_hub(tmp_path_factory):
    """The same for all tests of a file, which read what was pushed once."""
    with HubServer(tmp_path_factory.mktemp("hub"), port=HUB_PORT) as server:
        yield server
    assert not server.errors, "\n".join(server.errors)


@pytest.fixture
def clients(hub, tmp_path):
    (tmp_path / "clients").mkdir()
    clients = Clients(hub, tmp_path / "clients")
    yield clients
    clients.stop()


@pytest.fixture
def run_client(clients) -> Callable[..., subprocess.CompletedProcess]:
    """`Clients.run`."""
    return clients.run


@pytest.fixture
def start_client(clients) -> Callable[..., subprocess.Popen | ForkedPython]:
    """`Clients.start`."""
    return clients.start
