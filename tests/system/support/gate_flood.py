"""A user without rights fills the agent's public socket in a container, while a gate's code asks its questions."""

import json
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor

from lab.nspawn import Container
from tests.drills.frame import Figure

CONNECTIONS = 2048
"""Twice the queue: the second thousand waits in the kernel beside everyone else who asks."""
FLOOD_SECONDS = 60
ASK_SECONDS = 55
FLOOD = """
import socket, sys, threading, time
ends, made = time.monotonic() + float(sys.argv[2]), []
def connect():
    while time.monotonic() < ends:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect("/run/cascadia/cascadia.sock")  # waits in the kernel while the queue is full
            made.append(1)
            link.recv(1)  # until the agent makes room for others
threading.stack_size(256 * 1024)
threads = [threading.Thread(target=connect, daemon=True) for _ in range(int(sys.argv[1]))]
for thread in threads:
    thread.start()
time.sleep(float(sys.argv[2]))
print(len(made))
"""
"""A user without rights who keeps the queue of the agent's public socket full, and never asks."""
ASK = """
import json, sys, time
sys.path.insert(0, "/usr/lib/cascadia/lib")
from node.gating.gate import QUESTION_SECONDS_MAX, SOCKET
from node.gating.question import AgentSocket, Unanswered
took, missed, ends = [], 0, time.monotonic() + float(sys.argv[1])
while time.monotonic() < ends:
    begun = time.monotonic()
    try:
        granted = AgentSocket(sys.argv[2] or SOCKET).ask("/v1/entitlements/vision", QUESTION_SECONDS_MAX)[0] == 200
    except Unanswered as error:
        granted = False
    missed += not granted
    took.append(time.monotonic() - begun)
    time.sleep(0.2)
print(json.dumps([len(took), missed, round(max(took), 2)]))
"""
"""The question of a gate, again and again, by the code of the gate: how many, how many without an answer, the longest."""


def flood(machine: Container, figures: MutableMapping[str, Figure]) -> tuple[int, int]:
    """Fill the public socket for a minute. Returns how many questions of a gate were asked, and how many were missed."""

    def run(user: str, program: str, *arguments: str) -> str:
        command = ("systemd-run", "--quiet", "--pipe", "--wait", f"--uid={user}", "python3", "-c", program)
        return machine.checked(*command, *arguments, seconds=4.0 * FLOOD_SECONDS)

    with ThreadPoolExecutor(3) as pool:
        filling = pool.submit(run, "nobody", FLOOD, str(CONNECTIONS), str(FLOOD_SECONDS))
        at_gates = pool.submit(run, "cascadia", ASK, str(ASK_SECONDS), "")
        at_public = pool.submit(run, "cascadia", ASK, str(ASK_SECONDS), "/run/cascadia/cascadia.sock")
        questions, missed, longest = json.loads(at_gates.result())
        figures["in a flood: questions of a gate, missed, longest in s"] = f"{questions}, {missed}, {longest}"
        figures["in a flood: the same at the public socket"] = at_public.result().strip(" [\n]")
        figures["in a flood: connections that were made"] = int(filling.result())
    return questions, missed
