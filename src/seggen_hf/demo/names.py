"""By which names the page may be called: pages of other sites, open in the same browser, must not use it.

A browser says in Host which name the address bar or a script called, and in Origin whose page asks. A site whose own
name is made to point at this machine (DNS rebinding) is told by its Host, a request across sites by its Origin.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable

# What browsers send, and no more: no user, no path.
HOST = re.compile(r"(\[[\da-f:.]+\]|[^\s\[\]:/?#@\\]+)(:\d*)?", re.IGNORECASE)
ORIGIN = re.compile(rf"https?://{HOST.pattern}", re.IGNORECASE)
EVERYWHERE = ("0.0.0.0", "::")


class Names:
    """The names of a page that listens at `host`.

    - A loopback address: every loopback name. No other machine gets there, and none of these can be pointed elsewhere.
    - Another address or name: that, the addresses behind it, and this machine's own names and addresses.
    - All addresses: these, loopback names, and any address in digits. Behind a router or in a container, the machine
      has addresses that it does not know; a site cannot rebind digits, and its Origin still tells it.

    Args:
        host: what the page listens at.
        more: names that a proxy or another name server has for it.
    """

    def __init__(self, host: str, more: Iterable[str] = ()):
        self.everywhere = plain_name(host) in EVERYWHERE
        self.local = self.everywhere or is_loopback(host)
        self.known = {plain_name(name) for name in more}
        if not is_loopback(host):
            own = {plain_name(name) for name in (socket.gethostname(), socket.getfqdn())}
            own = {name for name in own if name and not is_address(name) and not is_loopback(name)}
            own |= {f"{name.partition('.')[0]}.local" for name in own}  # over multicast DNS
            self.known |= own | {plain_name(host)}
            self.known |= {address for name in (socket.gethostname(), host) for address in _addresses(name)}

    def fits(self, host: str, origins: Iterable[str]) -> bool:
        """Whether a request with this Host, and these Origins if it tells one, is of a page of this server."""
        called = HOST.fullmatch(host)
        if called is None or not (self._knows(called[1]) or (self.everywhere and is_address(called[1]))):
            return False
        asking = [ORIGIN.fullmatch(origin) for origin in origins]
        return all(o and (self._knows(o[1]) or plain_name(o[1]) == plain_name(called[1])) for o in asking)

    def _knows(self, name: str) -> bool:
        return (self.local and is_loopback(name)) or plain_name(name) in self.known


class OwnPagesOnly:
    """ASGI middleware that refuses requests, those for WebSockets too, that are not of the page's own."""

    def __init__(self, app: Callable, names: Names):
        self.app, self.names = app, names

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        hosts, origins = ([value for key, value in headers if key == name] for name in (b"host", b"origin"))
        if len(hosts) == 1 and self.names.fits(hosts[0], origins):
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":  # closed before it is accepted: the server answers 403
            return await send({"type": "websocket.close", "code": 1008})
        body = b"The demo does not answer to this name; seggen demo --allow-host NAME lets one in.\n"
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def is_on_spaces() -> bool:
    """Whether this is a Space of the Hub: it is reached through a proxy alone, by names that are the Hub's affair."""
    return any(os.environ.get(name) for name in ("SPACE_ID", "SPACE_HOST"))


def plain_name(name: str) -> str:
    """Lower case, without the dot of a full name; addresses in their short form, without brackets."""
    name = name.strip("[]").lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(plain_name(name))
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether a name or address is this machine's alone: 127.0.0.0/8, ::1, localhost and all names below it."""
    name = plain_name(name)
    if is_address(name):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost" or name.endswith(".localhost")


def _addresses(name: str) -> set[str]:
    try:
        return {plain_name(str(entry[4][0])) for entry in socket.getaddrinfo(name, None)}
    except OSError:  # a name that nobody resolves
        return set()
