"""Which addresses of the network are everybody's, and which are this machine's, its neighbours' or nobody's.

Pure: names are resolved elsewhere, so that what is judged here is the very address that is connected to.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# Addresses that hold an IPv4 address in their last bits, to which their packets go: RFC 6052, RFC 4291.
_TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
# The same within one network, RFC 8215: not every Python knows of it.
_TRANSLATED_LOCALLY = IPv6Network("64:ff9b:1::/48")
# Cloud machines find their keys there; it is link-local, and worth a name of its own.
_METADATA = IPv4Address("169.254.169.254")


def objection(address: str) -> str | None:
    """Say what kind of private address this is; null for one that everybody may connect to."""
    found = _unwrapped(ip_address(address.partition("%")[0]))
    if found == _METADATA:
        return "the metadata service of a cloud machine"
    if found.is_unspecified or found.is_loopback:
        return "this machine itself"
    if found.is_link_local:
        return "a link-local address"
    if found.is_multicast:
        return "a multicast address"
    if found.is_reserved or not found.is_global or _is_local(found):
        return "an address of a private network"
    return None


def _is_local(address: IPv4Address | IPv6Address) -> bool:
    return isinstance(address, IPv6Address) and (address.is_site_local or address in _TRANSLATED_LOCALLY)


def _unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Find the IPv4 address that an IPv6 address stands for."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour or address
    if address.teredo:
        return address.teredo[1]
    is_translated = any(address in network for network in _TRANSLATED)
    # The addresses :: and ::1 are IPv6's own.
    return IPv4Address(int(address) & 0xFFFFFFFF) if is_translated and int(address) > 1 else address
