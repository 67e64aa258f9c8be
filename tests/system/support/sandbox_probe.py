"""What the sandbox of the agent's unit stops, and what it lets through: small programs, and where they run.

Each program runs twice in a container: in a copy of the unit whose program is the probe, and as root in a unit without
any of its directives. A row is stopped by the sandbox only if root could do it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lab.nspawn import Container
from lab.processes import StepFailed, wait_until

PROBE_SECONDS_MAX = 60.0
STATE = "/var/lib/cascadia"
PROBE = "/usr/lib/lab-probe"
DEVICE = "10 229"
"""Major and minor number of a device that takes the place of the TPM (/dev/fuse), since a container has no TPM."""
OTHER_DEVICE = "10 237"

_HEAD = """
import ctypes, errno, fcntl, json, mmap, os, socket, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), "refused")
def tried(text):
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        try:
            exec(text, globals())
            said = "works"
        except OSError as error:
            said = errno.errorcode.get(error.errno, str(error.errno))
        except BaseException as error:
            said = repr(error)
        os.write(writable, said.encode())
        os._exit(0)
    os.close(writable)
    said = b"".join(iter(lambda: os.read(readable, 4096), b"")).decode()
    os.close(readable)
    os.waitpid(child, 0)
    return said
"""
STOPPED: Mapping[str, str] = {
    "write /etc": "open('/etc/lab-written', 'w')",
    "write /usr": "open('/usr/lib/lab-written', 'w')",
    "write beside the state": "open('/var/lib/lab-written', 'w')",
    "read /home": "os.listdir('/home/someone')",
    "read /root": "os.listdir('/root')",
    "read a file of another user": "open('/var/lib/lab-other/secret')",
    "read /etc/shadow": "open('/etc/shadow')",
    "see a process of another user": "open('/proc/1/status')",
    "signal a process of another user": "os.kill(1, 0)",
    "run a program that it wrote": f"open('{STATE}/x', 'w').write('#!/bin/sh'); os.chmod('{STATE}/x', 0o755); "
    f"subprocess.run(['{STATE}/x'], check=True)",
    "load a kernel module": "call(313, os.open('/usr/bin/env', os.O_RDONLY), b'', 0)",
    "trace a process": "call(101, 0, 0, 0, 0)",
    "make a user namespace": "call(272, 0x10000000)",
    "make a mount namespace": "call(272, 0x00020000)",
    "mount": "call(165, b'none', b'/tmp', b'tmpfs', 0, None)",
    "change the root directory": "os.chroot('/usr')",
    "open a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "open a packet socket (AF_PACKET)": "socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)",
    "open a socket of the kernel's ciphers (AF_ALG)": "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0)",
    "listen on TCP": "socket.create_server(('127.0.0.1', 0))",
    "listen on TCP over IPv6": "socket.create_server(('::1', 0), family=socket.AF_INET6)",
    "listen on a unix socket": f"s = socket.socket(socket.AF_UNIX); s.bind('{STATE}/socket'); s.listen()",
    "use io_uring, which can listen": "call(425, 1, ctypes.create_string_buffer(120))",
    "take a UDP port": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(('127.0.0.1', 47123))",
    "open another device": "open('/dev/lab-other', 'rb', buffering=0)",
    "make a device": f"os.mknod('{STATE}/device', 0o20600, os.makedev(1, 3))",
    "become root": "os.setresuid(0, 0, 0)",
    "make a set-user-ID file": f"open('{STATE}/s', 'w'); os.chmod('{STATE}/s', 0o4755)",
    "change a kernel tunable": "open('/proc/sys/kernel/core_pattern', 'r+')",
    "change a cgroup": "os.mkdir('/sys/fs/cgroup/lab-probe')",
    "read the kernel's log": "call(103, 3, ctypes.create_string_buffer(4096), 4096)",
    "set the clock": "time.clock_settime(time.CLOCK_REALTIME, time.time())",
    "set the host name": "socket.sethostname('lab')",
    "get real-time priority": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
    "get a higher priority": "os.setpriority(os.PRIO_PROCESS, 0, -5)",
    "change the personality of the kernel": "call(135, 0x0008)",
    "map writable code": "mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)",
    "load a BPF program": "call(321, 0, ctypes.create_string_buffer(bytes((1, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 1)), 128), 128)",
}
"""What the agent must not be able to do. The numbers are system calls of x86-64."""
WORKS: Mapping[str, str] = {
    "write the state": f"open('{STATE}/lab-written', 'w')",
    "write beside the socket": "open('/run/cascadia/lab-written', 'w')",
    "write /tmp": "open('/tmp/lab-written', 'w')",
    "read the settings": "open('/etc/cascadia/cascadia.toml')",
    "open /dev/tpmrm0, by its group and the device policy": "os.open('/dev/tpmrm0', os.O_RDWR)",
    "hear events of udev (netlink)": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15).bind((0, 2))",
    "read the database of udev": "open('/run/udev/data/b8:0')",
    "read /sys": "os.listdir('/sys/class/net')",
    "read the boot id": "open('/proc/sys/kernel/random/boot_id')",
    "open a TCP connection": "socket.create_connection(('127.0.0.1', int(os.environ['LAB_PORT'])), 5)",
    "send UDP, as DNS does": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))",
    "resolve a name": "socket.getaddrinfo('localhost', 443)",
    "keep a session key in a memory file": "os.memfd_create('key')",
    "forbid dumps of its memory": "call(157, 4, 0, 0, 0, 0)",
    "make threads": "import threading; t = threading.Thread(target=int); t.start(); t.join()",
    "read a serial number that root alone may read": "assert open(os.environ['CREDENTIALS_DIRECTORY'] + "
    "'/dmi-board-serial').read() == 'BRD-1'",
    "start without a serial number": "assert open(os.environ['CREDENTIALS_DIRECTORY'] + '/dmi-product-uuid').read() == "
    "'\\n'",
}
"""What the agent needs."""
WITHOUT_BPF = frozenset({"take a UDP port"})
"""Rows that `SocketBindDeny=` alone stops. The systemd of Debian 12 is built without it (`-BPF_FRAMEWORK`)."""
REFUSALS = frozenset({"EPERM", "EACCES", "EROFS", "ENOENT", "EAFNOSUPPORT", "ESRCH"})
"""The errors of a refusal. Any other error is a fault of the row."""
_MAIN = """
import sys
rows = json.load(open("%s.json"))
with open(sys.argv[1] + ".new", "w") as out:
    json.dump({name: tried(text) for name, text in rows.items()}, out)
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""
_USERS = """
import json, os, socket, struct
listening = socket.socket(fileno=3)  # passed by systemd, as to the agent
users = []
while len(users) < 3:
    with listening.accept()[0] as link:
        users.append(struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
json.dump(users, open("%s/users.new", "w"))
os.rename("%s/users.new", "%s/users")
"""
_CONNECT = "import socket; socket.socket(socket.AF_UNIX).connect('/run/cascadia/lab.sock')"
_SOCKET = "[Socket]\nListenStream=/run/cascadia/lab.sock\nSocketMode=0666\nRemoveOnStop=yes\n"
_LEFT_OUT = (
    "Condition",
    "RequiresMountsFor",
    "Wants=",
    "Type=",
    "WatchdogSec",
    "Restart",
    "TimeoutStart",
    "NotifyAccess",
)
"""Directives of the unit that are no part of its sandbox."""


class Findings(NamedTuple):
    """Row -> what happened: in the sandbox, and as root without it."""

    inside: dict[str, str]
    root: dict[str, str]


def copy_of_unit(text: str, program: str, port: int) -> str:
    """The unit with another program, one start and no watchdog. One serial number is in a file of root.

    The socket unit and the condition are left out, so the copy starts on a machine that is not activated.
    """
    lines = [line for line in text.splitlines() if not line.startswith((*_LEFT_OUT, "#"))]
    copied = "\n".join(lines).partition("[Install]")[0]
    copied = copied.replace("/usr/bin/cascadia run", program).replace(
        "/sys/class/dmi/id/board_serial", "/etc/lab-serial"
    )
    return copied.replace("[Service]", f"[Service]\nType=exec\nEnvironment=LAB_PORT={port}", 1)


def prepare(host: Container) -> None:
    """Make what the rows need: files of others, devices, the database of udev, the programs."""
    host.checked("sh", "-ec", (
        "mkdir -p /home/someone /var/lib/lab-other /run/udev/data; echo N:sda >/run/udev/data/b8:0; "
        "echo x >/var/lib/lab-other/secret; chmod 600 /var/lib/lab-other/secret; printf BRD-1 >/etc/lab-serial; "
        "chmod 400 /etc/lab-serial; rm -f /dev/tpmrm0 /dev/lab-other; "
        f"mknod -m 660 /dev/tpmrm0 c {DEVICE}; chgrp tss /dev/tpmrm0; mknod -m 666 /dev/lab-other c {OTHER_DEVICE}"
    ))  # fmt: skip
    host.write(f"{PROBE}.json", json.dumps({**STOPPED, **WORKS}))
    host.write(f"{PROBE}.py", _HEAD + _MAIN % PROBE)
    host.write(f"{PROBE}-users.py", _USERS % (STATE, STATE, STATE))


def probe(host: Container, port: int) -> Findings:
    """Run every row in the sandbox and as root. `port` is a listener of this machine. Raises StepFailed."""
    inside = _run(host, f"{PROBE}.py", port, f"{STATE}/probe.json")
    host.checked(
        "systemd-run", "--wait", "--collect", "--quiet", f"--setenv=LAB_PORT={port}",
        "/usr/bin/python3", "-IS", f"{PROBE}.py", "/run/probe.json",
    )  # fmt: skip
    return Findings(json.loads(inside), json.loads(host.checked("cat", "/run/probe.json")))


def users_seen(host: Container, users: tuple[int, int, int]) -> list[int]:
    """The users that a program in the sandbox sees at its socket when `users` connect. Raises StepFailed."""
    host.write("/run/systemd/system/lab-probe.socket", _SOCKET)
    host.checked("systemctl", "daemon-reload")
    host.checked("systemctl", "stop", "lab-probe.service")
    host.checked("systemctl", "start", "lab-probe.socket")
    _start(host, f"{PROBE}-users.py", 0, "")
    for user in users:
        host.checked("setpriv", f"--reuid={user}", "--clear-groups", "python3", "-c", _CONNECT)
    return list(json.loads(_result(host, f"{STATE}/users")))


def _run(host: Container, script: str, port: int, result: str) -> str:
    _start(host, script, port, result)
    return _result(host, result)


def _start(host: Container, script: str, port: int, argument: str) -> None:
    unit = host.path("/usr/lib/systemd/system/cascadia.service").read_text()
    text = copy_of_unit(unit, f"/usr/bin/python3 -IS {script} {argument}", port)
    host.write("/run/systemd/system/lab-probe.service", text)
    host.checked("systemctl", "daemon-reload")
    host.checked("systemctl", "restart", "lab-probe.service")


def _result(host: Container, name: str) -> str:
    path: Path = host.path(name)

    def written() -> bool:
        if host.shown("lab-probe.service", "ActiveState")["ActiveState"] == "failed":
            said = [str(each["MESSAGE"]) for each in host.journal("lab-probe.service", "--lines=20")]
            raise StepFailed(f"the probe failed: {said}")
        return path.exists()

    wait_until("the result of the probe", written, PROBE_SECONDS_MAX)
    return path.read_text()


def judge(found: Findings, findings: list[str], limits: frozenset[str]) -> dict[str, int]:
    """Add a finding for each row that is wrong, and for each of `limits` that is none. Returns the numbers of rows.

    `limits` are rows that the container's systemd does not stop.
    """
    proven = 0
    for name in STOPPED:
        inside, root = found.inside[name], found.root[name]
        if name in limits:
            if inside in REFUSALS:
                findings.append(f"a limit is gone: {name} ({inside})")
        elif inside not in REFUSALS:
            findings.append(f"not stopped in the sandbox: {name} ({inside})")
        elif root == "works":
            proven += 1
    findings += [f"does not work in the sandbox: {name} ({found.inside[name]})" for name in WORKS
                 if found.inside[name] != "works"]  # fmt: skip
    return {
        "stopped in the sandbox, root can": proven,
        "stopped in the sandbox, the container stops root too": len(STOPPED) - proven - len(limits),
        "not stopped by this systemd": len(limits),
        "works in the sandbox": len(WORKS),
    }
