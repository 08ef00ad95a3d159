"""Which addresses may be fetched from."""

from __future__ import annotations

import ipaddress

import pytest

from podium_worker.domain import addresses

NOTHING = addresses.Rules()


def refused(address: str, rules: addresses.Rules = NOTHING, host: str = "a.example", port: int = 443) -> str:
    return addresses.refusal(ipaddress.ip_address(address), host, port, rules)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254"),
        *("169.254.1.1", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.255.255"),
        *("198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
        *("255.255.255.255", "169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd12:3456::1", "fd00:ec2::254", "ff02::1"),
        *("fd20:ce::254", "2001::1", "2001:db8::1", "2001:2::1", "2002:7f00:1::", "3fff::1", "100::1", "5f00::1"),
        # An IPv4 address inside: mapped, compatible, translated, NAT64, NAT64 for local use.
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1"),
        *("64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8"),
    ],
)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert refused(address)


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.1"),
        *("198.17.255.255", "198.20.0.0", "223.255.255.255", "168.63.129.15", "2606:4700::1111", "2a00:1450::1"),
        *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8"),
    ],
)
def test_what_is_public_is_allowed(address: str) -> None:
    assert refused(address) == ""


@pytest.mark.parametrize("port", [22, 25, 53, 110, 81, 1023])
def test_ports_of_other_protocols_are_refused_unless_they_are_listed(port: int) -> None:
    assert "port" in refused("8.8.8.8", port=port)
    assert refused("8.8.8.8", addresses.parse_rules([f"a.example:{port}"]), port=port) == ""


@pytest.mark.parametrize("port", [80, 443, 1024, 8080, 65535])
def test_other_ports_are_allowed(port: int) -> None:
    assert refused("8.8.8.8", port=port) == ""


@pytest.mark.parametrize(
    ("entry", "address", "host", "port"),
    [
        ("images.internal", "10.0.0.1", "images.internal", 80),
        ("Images.Internal.", "127.0.0.1", "images.internal", 8080),
        ("*.internal", "fd12::1", "a.b.internal", 443),
        ("images.internal:9000", "10.0.0.1", "images.internal", 9000),
        ("10.0.0.0/8", "10.255.0.1", "whatever.example", 80),
        ("10.0.0.0/8", "::ffff:10.255.0.1", "whatever.example", 80),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", 5000),
        ("127.0.0.1:5000", "127.0.0.1", "127.0.0.1", 5000),
        ("fd12::/16", "fd12:1::1", "x.example", 80),
        ("fd12::7", "fd12::7", "x.example", 80),
        ("[fd12::7]", "fd12::7", "x.example", 80),
        ("[fd12::7]:9000", "fd12::7", "x.example", 9000),
    ],
)
def test_what_the_operator_lists_is_allowed(entry: str, address: str, host: str, port: int) -> None:
    assert refused(address, NOTHING, host, port)
    assert refused(address, addresses.parse_rules(["other.example", entry]), host, port) == ""


@pytest.mark.parametrize(
    ("entry", "address", "host", "port"),
    [
        ("images.internal", "10.0.0.1", "ximages.internal", 80),
        ("images.internal", "10.0.0.1", "a.images.internal", 80),
        ("*.internal", "10.0.0.1", "internal", 80),
        ("*.internal", "10.0.0.1", "xinternal", 80),
        ("images.internal:9000", "10.0.0.1", "images.internal", 80),
        ("10.0.0.0/8:9000", "10.0.0.1", "a.example", 80),
        ("127.0.0.2", "127.0.0.1", "a.example", 80),
        ("::/0", "127.0.0.1", "a.example", 80),
        # Credentials of machines stay closed.
        ("*.internal", "169.254.169.254", "metadata.google.internal", 80),
        ("0.0.0.0/0", "169.254.169.254", "a.example", 80),
        ("0.0.0.0/0", "168.63.129.16", "a.example", 80),
        ("0.0.0.0/0", "::ffff:169.254.169.254", "a.example", 80),
        ("::/0", "fd00:ec2::254", "a.example", 80),
    ],
)
def test_a_list_opens_no_more_than_it_says(entry: str, address: str, host: str, port: int) -> None:
    assert refused(address, addresses.parse_rules([entry]), host, port)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("http://images.internal", "is a URL; name only its host"),
        ("images.internal/x", "has a path; name only the host"),
        ("images.internal:", "has a port that is none"),
        ("images.internal:0", "has a port that is none"),
        ("images.internal:65536", "has a port that is none"),
        ("10.0.0.1/8", "has bits set beyond its prefix"),
        ("10.0.0/8", "is no address or network"),
        ("2130706433", "is no address or network"),
        ("127.1", "is no address or network"),
        ("0x7f.1", "is no address or network"),
        ("[::1", "has brackets that do not match"),
        ("[fd12::]/16", "has brackets that do not match"),
        ("*", "is no host name"),
        ("*.", "is no host name"),
        ("a..b", "is no host name"),
        ("a.*.b", "is no host name"),
        ("bücher.example", "is no host name"),
        ("user@host", "is no host name"),
        ("", "is no host name"),
        ("169.254.169.254", "is never fetched from: link-local"),
        ("fd00:ec2::254", "is never fetched from: a metadata service"),
    ],
)
def test_an_entry_that_makes_no_sense_is_named(entry: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        addresses.parse_rules(["fine.example", entry])
    assert repr(entry) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "1.2.3.4.", "::1", "a.0x"]
)
def test_what_anybody_may_read_as_an_address_is_no_name(host: str) -> None:
    assert addresses.looks_numeric(host)
    assert addresses.host_name(host) is None
