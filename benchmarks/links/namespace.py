"""A network namespace with one tun device. It has no name: when nobody holds it any more, the kernel removes it."""

import ctypes
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

DEVICE = "lab0"
TCP_BUFFER = 16 << 20
SYSCTLS = {
    "ipv4/tcp_rmem": f"4096 {TCP_BUFFER} {TCP_BUFFER}",
    "ipv4/tcp_wmem": f"4096 {TCP_BUFFER} {TCP_BUFFER}",
    "ipv4/tcp_slow_start_after_idle": "0",
    "ipv4/tcp_no_metrics_save": "1",
    "ipv4/tcp_congestion_control": "reno",  # the links lose nothing; others back off when a queue makes them wait
    "ipv6/conf/all/disable_ipv6": "1",
}
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFMTU, SIOCSIFTXQLEN = 0x8914, 0x8916, 0x891C, 0x8922, 0x8943
IFF_UP, IFF_NOARP = 0x0001, 0x0080


@dataclass(frozen=True)
class Namespace:
    """A worker's network as the relay holds it.

    Attributes:
        handle: file descriptor of the namespace.
        tun: file descriptor that IP packets are read from and written to, one at a time, without blocking.
    """

    handle: int
    tun: int
    _socket: socket.socket

    def set_mtu(self, mtu: int) -> None:
        """Bytes of the largest packet, headers included."""
        _configure(self._socket, DEVICE, SIOCSIFMTU, struct.pack("i", mtu))


def address(rank: int) -> str:
    """The address of a worker; its last byte is one more than its rank."""
    return f"10.77.0.{rank + 1}"


def open_namespace(rank: int) -> Namespace:
    """Move this thread into a new network namespace and set that up; OSError where the system does not let it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"no new network namespace: {os.strerror(ctypes.get_errno())}")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    for name, value in SYSCTLS.items():
        _write_sysctl(name, value)
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    _configure(control, "lo", SIOCSIFFLAGS, struct.pack("h", IFF_UP))
    _configure(control, DEVICE, SIOCSIFADDR, _socket_address(address(rank)))
    _configure(control, DEVICE, SIOCSIFNETMASK, _socket_address("255.255.255.0"))
    _configure(control, DEVICE, SIOCSIFTXQLEN, struct.pack("i", 20_000))
    _configure(control, DEVICE, SIOCSIFFLAGS, struct.pack("h", IFF_UP | IFF_NOARP))
    return Namespace(os.open("/proc/self/ns/net", os.O_RDONLY), tun, control)


def processes_inside(namespaces: list[Namespace]) -> list[int]:
    """Ids of the processes in these namespaces, except this one."""
    ours = {os.fstat(namespace.handle).st_ino for namespace in namespaces}
    others = [int(path.name) for path in Path("/proc").glob("[0-9]*") if int(path.name) != os.getpid()]
    return [process for process in others if _network_of(process) in ours]


def _write_sysctl(name: str, value: str) -> None:
    path = Path("/proc/sys/net", name)
    if path.exists():  # IPv6 may be missing
        path.write_text(value, encoding="ascii")


def _configure(control: socket.socket, device: str, request: int, value: bytes) -> None:
    fcntl.ioctl(control, request, struct.pack("16s24s", device.encode(), value))


def _socket_address(host: str) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(host))


def _network_of(process: int) -> int | None:
    try:
        return os.stat(f"/proc/{process}/ns/net").st_ino
    except OSError:  # it has ended
        return None
