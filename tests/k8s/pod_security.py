"""The Pod Security Standard `restricted`, control by control, for offline use.

https://kubernetes.io/docs/concepts/security/pod-security-standards/: `restricted` includes
`baseline`. The API server enforces the same on the namespace's labels.
"""

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

_VOLUME_TYPES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
_SECCOMP = ("RuntimeDefault", "Localhost")
_SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
    }
)


def violations(pod: Object) -> list[str]:
    """Return every way in which a pod's spec breaks the profile; none is what is wanted."""
    return [*_of_pod(pod), *_of_containers(pod)]


def _of_pod(pod: Object) -> Iterator[str]:
    context = pod.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{field} is set"
    for volume in pod.get("volumes", ()):
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUME_TYPES:
            yield f"volume {volume['name']} is of type {kinds}"
    for sysctl in context.get("sysctls", ()):
        if sysctl["name"] not in _SAFE_SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    if context.get("runAsUser") == 0:
        yield "the pod runs as user 0"
    if "windowsOptions" in context and context["windowsOptions"].get("hostProcess"):
        yield "hostProcess is set"


def _of_containers(pod: Object) -> Iterator[str]:
    shared = pod.get("securityContext", {})
    groups = ("initContainers", "containers", "ephemeralContainers")
    for container in (item for group in groups for item in pod.get(group, ())):
        name = container["name"]
        own = container.get("securityContext", {})
        if own.get("privileged"):
            yield f"{name} is privileged"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{name} allows privilege escalation"
        if own.get("runAsNonRoot", shared.get("runAsNonRoot")) is not True:
            yield f"{name} may run as root"
        if own.get("runAsUser") == 0:
            yield f"{name} runs as user 0"
        seccomp = own.get("seccompProfile", shared.get("seccompProfile", {}))
        if seccomp.get("type") not in _SECCOMP:
            yield f"{name} has no seccomp profile"
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", ()):
            yield f"{name} does not drop all capabilities"
        if set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
            yield f"{name} adds capabilities"
        if own.get("procMount", "Default") != "Default":
            yield f"{name} sets procMount"
        for option in (own.get("seLinuxOptions"), shared.get("seLinuxOptions")):
            if option and {"user", "role"} & set(option):
                yield f"{name} sets an SELinux user or role"
        if any(port.get("hostPort") for port in container.get("ports", ())):
            yield f"{name} uses a host port"
