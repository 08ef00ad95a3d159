"""Which addresses a worker may fetch from, when it is clients that write the URLs.

A worker stands inside an operator's network: what it can reach is not what a client may reach. So only public unicast
addresses are fetched from, and what the operator lists. What is judged is the address that a connection goes to, never
the name alone: whoever owns a name decides anew at each look-up what it means.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _table(kinds: dict[str, str]) -> tuple[tuple[Network, str], ...]:
    return tuple((ipaddress.ip_network(part), kind) for kind, parts in kinds.items() for part in parts.split())


_CREDENTIALS = _table(
    {
        "link-local": "169.254.0.0/16",
        # Azure, Alibaba, Oracle; AWS (metadata, pod identity), Google, Oracle over IPv6.
        "a metadata service": "168.63.129.16/32 100.100.100.200/32 192.0.0.192/32"
        " fd00:ec2::/32 fd20:ce::254/128 fd00:c1::a9fe:a9fe/128",
    }
)
"""Machines hand their own credentials out there. No list opens these: `*.internal` would, on Google's cloud."""

_SPECIAL = _CREDENTIALS + _table(
    {
        # https://www.iana.org/assignments/iana-ipv4-special-registry, read 2026; ipaddress.is_private differs between
        # patch releases of Python.
        "unspecified": "0.0.0.0/8",
        "loopback": "127.0.0.0/8",
        "private": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16",
        "shared (carrier-grade NAT)": "100.64.0.0/10",
        "for documentation": "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20",
        "for benchmarks": "198.18.0.0/15",
        "multicast": "224.0.0.0/4",
        # 192.88.99.0/24 were relays of 6to4. 2001::/23 holds Teredo, 2002::/16 is 6to4: tunnels to any IPv4 address.
        "reserved": "192.0.0.0/24 192.88.99.0/24 240.0.0.0/4 2001::/23 2002::/16",
    }
)
_IPV6_PUBLIC = ipaddress.IPv6Network("2000::/3")
"""All that has been given out for global unicast. Loopback, unique local, link-local and multicast lie outside."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class HostRule:
    """A host that may be fetched from, whatever it resolves to. `domain`: each name below `name`, not `name` itself."""

    name: str
    domain: bool = False
    port: int | None = None
    """None: any."""

    def allows(self, host: str, port: int) -> bool:
        """`host` is in lower case and without a final dot."""
        if self.port not in (None, port):
            return False
        return host.endswith(f".{self.name}") if self.domain else host == self.name


@dataclass(frozen=True, slots=True)
class NetworkRule:
    """Addresses that may be fetched from, under whatever name."""

    network: Network
    port: int | None = None
    """None: any."""

    def allows(self, address: Address, port: int) -> bool:
        """An address of the other IP version is in no network of this one."""
        return self.port in (None, port) and address in self.network


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator allows beyond the public internet."""

    allowed_hosts: tuple[HostRule, ...] = ()
    allowed_networks: tuple[NetworkRule, ...] = ()


def refusal(address: Address, host: str, port: int, rules: Rules) -> str:
    """Why `address`, found under `host`, may not be connected to; empty if it may be.

    `host` as in HostRule.allows. An IPv4 address that travels inside an IPv6 one is judged as itself.
    """
    address = _plain(address)
    if kind := _kind(address, _CREDENTIALS):
        return kind
    if any(rule.allows(host, port) for rule in rules.allowed_hosts):
        return ""
    if any(rule.allows(address, port) for rule in rules.allowed_networks):
        return ""
    if kind := _kind(address, _SPECIAL):
        return kind
    if address.version == 6 and address not in _IPV6_PUBLIC:
        return "not public"
    if port < 1024 and port not in (80, 443):
        # Mail, shells, directories: other protocols than HTTP, some of which would make something of a request.
        return f"public, but port {port} is not for HTTP"
    return ""


def _plain(address: Address) -> Address:
    """The address that packets go to: without a zone, and as IPv4 where a mapping or NAT64 makes it that."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    address = ipaddress.IPv6Address(int(address))
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _kind(address: Address, table: tuple[tuple[Network, str], ...]) -> str:
    return next((kind for network, kind in table if address in network), "")


def parse_rules(entries: Iterable[str]) -> Rules:
    """Rules from an operator's list.

    An entry is a host (`images.internal`), a domain (`*.images.internal`: the names below it), an address or a network
    (`10.0.0.7`, `fd12::/64`), each followed by `:port` if it is to hold for one port only (`10.0.0.0/8:9000`,
    `[fd12::7]:9000`). Raises ValueError, which names the entry and what is wrong with it.
    """
    hosts: list[HostRule] = []
    networks: list[NetworkRule] = []
    for entry in entries:
        try:
            rule = _parse(entry.strip())
        except ValueError as error:
            raise ValueError(f"{entry!r} {error}") from None
        if isinstance(rule, HostRule):
            hosts.append(rule)
        else:
            networks.append(rule)
    return Rules(tuple(hosts), tuple(networks))


def _parse(entry: str) -> HostRule | NetworkRule:
    if "://" in entry:
        raise ValueError("is a URL; name only its host")
    place, port = _split_port(entry)
    network = _network(place)
    if network is not None:
        for secret, kind in _CREDENTIALS:
            if network.version == secret.version and network.subnet_of(secret):  # type: ignore[arg-type]
                raise ValueError(f"is never fetched from: {kind}")
        return NetworkRule(network, port)
    domain = place.startswith("*.")
    name = host_name(place.removeprefix("*."))
    if name is None:
        raise ValueError("is no host name, *.domain, address or network, with or without :port")
    return HostRule(name, domain, port)


def _split_port(entry: str) -> tuple[str, int | None]:
    if entry.startswith("["):
        place, bracket, rest = entry[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("has brackets that do not match")
        port = rest[1:] if rest else None
    elif entry.count(":") == 1:
        place, _, port = entry.partition(":")
    else:
        # No colon, or the many of a bare IPv6 address.
        return entry, None
    if port is None:
        return place, None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("has a port that is none")
    return place, int(port)


def _network(place: str) -> Network | None:
    """None: it looks like no address at all."""
    if not looks_numeric(place.partition("/")[0]):
        if "/" in place:
            raise ValueError("has a path; name only the host")
        return None
    try:
        return ipaddress.ip_network(place)
    except ValueError as error:
        reason = "has bits set beyond its prefix" if "host bits" in str(error) else "is no address or network"
        raise ValueError(reason) from None


def looks_numeric(host: str) -> bool:
    """Whether some part of the world reads `host` as an address rather than a name: `127.1`, `0x7f.1`, `::1`, `017`.

    As in https://url.spec.whatwg.org/#ends-in-a-number-checker, so that no name is also an address.
    """
    last = host.rstrip(".").rpartition(".")[2].lower()
    return ":" in host or last.isdigit() or (last.startswith("0x") and all(c in "0123456789abcdef" for c in last[2:]))


def literal(host: str) -> Address | None:
    """The address that `host` spells in the one usual way; None for anything else, odd spellings included."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return address if isinstance(address, ipaddress.IPv4Address) or address.scope_id is None else None


_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def host_name(text: str) -> str | None:
    """`text` as a host name in lower case and without a final dot, or None if it is none (or an address)."""
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or looks_numeric(name) or not all(0 < len(label) < 64 for label in labels):
        return None
    return name if all(_NAME_LETTERS.issuperset(label) for label in labels) else None
