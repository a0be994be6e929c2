"""Which addresses a page may be fetched from."""

from __future__ import annotations

import pytest

from crabd.tools.web.addresses import objection

OURS = "this machine itself"
PRIVATE = "an address of a private network"


@pytest.mark.parametrize("address", ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_addresses_of_the_internet_are_everybodys(address: str) -> None:
    assert objection(address) is None


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1", OURS),
        ("127.9.9.9", OURS),
        ("0.0.0.0", OURS),
        ("::", OURS),
        ("::1", OURS),
        ("::127.0.0.1", OURS),
        ("::ffff:127.0.0.1", OURS),
        ("64:ff9b::127.0.0.1", OURS),
        ("2002:7f00:1::", OURS),
        ("10.1.2.3", PRIVATE),
        ("172.16.0.1", PRIVATE),
        ("192.168.1.1", PRIVATE),
        ("100.64.0.1", PRIVATE),
        ("192.0.0.1", PRIVATE),
        ("198.18.0.1", PRIVATE),
        ("240.0.0.1", PRIVATE),
        ("255.255.255.255", PRIVATE),
        ("fd00::1", PRIVATE),
        ("fec0::1", PRIVATE),
        ("64:ff9b:1::1", PRIVATE),
        ("::ffff:10.0.0.1", PRIVATE),
        ("169.254.169.254", "the metadata service of a cloud machine"),
        ("::ffff:169.254.169.254", "the metadata service of a cloud machine"),
        ("169.254.1.1", "a link-local address"),
        ("fe80::1%eth0", "a link-local address"),
        ("224.0.1.1", "a multicast address"),
        ("ff02::1", "a multicast address"),
    ],
)
def test_other_addresses_are_named_for_what_they_are(address: str, what: str) -> None:
    assert objection(address) == what
