"""Who may open a connection to whom, judged from NetworkPolicies as a network plug-in judges.

A pod that no policy selects for a direction is open in it; one that is selected takes only what
some policy allows. A connection needs the sender's egress and the receiver's ingress.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Literal

from tests.k8s.manifests import Object, selects

Direction = Literal["Ingress", "Egress"]


@dataclass(frozen=True)
class Endpoint:
    """A pod, or an address outside the cluster where `namespace` is empty."""

    name: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    address: str = "203.0.113.7"


def allowed(
    policies: Sequence[Object],
    source: Endpoint,
    target: Endpoint,
    port: int,
    *,
    protocol: str = "TCP",
) -> bool:
    """Tell whether `source` may connect to `target`."""
    return _passes(policies, "Egress", source, target, target, port, protocol) and _passes(
        policies, "Ingress", target, source, target, port, protocol
    )


def _passes(
    policies: Sequence[Object],
    direction: Direction,
    subject: Endpoint,
    peer: Endpoint,
    listener: Endpoint,
    port: int,
    protocol: str,
) -> bool:
    if not subject.namespace:
        return True  # policies are about pods
    selecting = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == subject.namespace
        and selects(policy["spec"]["podSelector"], subject.labels)
        and direction in policy["spec"]["policyTypes"]
    ]
    if not selecting:
        return True
    peers, rules = ("from", "ingress") if direction == "Ingress" else ("to", "egress")
    return any(
        _port_matches(rule.get("ports"), listener, port, protocol)
        and _peer_matches(rule.get(peers), peer, subject.namespace)
        for spec in selecting
        for rule in spec.get(rules) or ()
    )


def _port_matches(
    ports: Sequence[Object] | None, listener: Endpoint, port: int, protocol: str
) -> bool:
    if not ports:
        return True
    return any(
        entry.get("protocol", "TCP") == protocol
        and _number(entry.get("port", port), listener) <= port
        and port <= entry.get("endPort", _number(entry.get("port", port), listener))
        for entry in ports
    )


def _number(port: int | str, listener: Endpoint) -> int:
    return port if isinstance(port, int) else listener.ports.get(port, -1)


def _peer_matches(peers: Sequence[Object] | None, peer: Endpoint, own_namespace: str) -> bool:
    if not peers:
        return True
    return any(_is_peer(entry, peer, own_namespace) for entry in peers)


def _is_peer(entry: Mapping[str, Any], peer: Endpoint, own_namespace: str) -> bool:
    if block := entry.get("ipBlock"):
        address = ip_address(peer.address)
        return address in ip_network(block["cidr"]) and not any(
            address in ip_network(excepted) for excepted in block.get("except", ())
        )
    if not peer.namespace:
        return False
    if "namespaceSelector" in entry:
        if not selects(entry["namespaceSelector"], peer.namespace_labels):
            return False
    elif peer.namespace != own_namespace:
        return False
    return selects(entry.get("podSelector", {}), peer.labels)
