"""Command `make demo`: one machine from bare hardware to licensed, offline, suspended and revoked."""

import shutil
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from demo.story import Story
from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import Process, StepFailed, ended, scratch_directory, start_program, wait_until
from lab.stranger import Stranger
from lab.tpm import SoftTpm

ENTITLEMENT = "vision"
GRANTED = "granted, limit 2"
"""The licensed program's line."""


def check(holds: bool, text: str) -> None:
    if not holds:
        raise StepFailed(text)


def lines(program: Process) -> list[str]:
    return program.printed().splitlines()


def begin(story: Story, directory: Path, ends: ExitStack) -> tuple[Cloud, Machine, Machine]:
    """Start a cloud; make two machines without an identity."""
    with story.step("two machines with a TPM each, behind a resource manager") as say:
        chips = [SoftTpm(directory / f"chip-{name}", ca=directory / "tpm-maker") for name in "ab"]
        machine, other = (
            Machine(directory, ends.enter_context(chip), name) for chip, name in zip(chips, "ab", strict=True)
        )
        say("software TPMs of one maker; each has an endorsement certificate")
    cloud = Cloud(directory)
    ends.enter_context(ended(cloud, machine, other))
    with story.step("make a cloud: root and issuing CAs, signing keys, databases") as say:
        made = cloud.init().made
        say(f"trust pin {made['trust_pin'][:20]}...; {len(made['take_offline'])} keys to take offline")
    with story.step("start every service in one process") as say:
        process = cloud.up()
        check(process.running, f"the cloud ended: {process.tail()}")
        say("fabric, breakwater, the TUF repository, and CRLs with OCSP listen")
    return cloud, machine, other


def activate(story: Story, cloud: Cloud, machine: Machine) -> tuple[str, Path]:
    """Make tenant, trust and code, and activate the machine. Returns the node's id and the activation file."""
    with story.step("a tenant trusts the TPM maker's root and gets an activation file") as say:
        tenant = cloud.tenant(machine.chip)
        file = cloud.code(tenant, "--seats", "1", entitlement=f"{ENTITLEMENT}:limit=2")
        check(file.stat().st_mode & 0o777 == 0o600, "the activation file is readable by others")
        say(f"one seat, entitlement {ENTITLEMENT!r} with the limit 2")
    with story.step("the machine activates, its identity key born in the TPM") as say:
        document = machine.run("activate", str(file))
        node = cloud.run("node", "show", document["node"])["node"]
        check(node["tier"] == "attested", f"the tier is {node['tier']}")
        check(document["state"] == "active", f"the state is {document['state']}")
        say(f"{node['id']} is attested, generation {document['generation']}")
    return str(document["node"]), file


def work(
    story: Story, directory: Path, ends: ExitStack, cloud: Cloud, machine: Machine, node: str, file: Path
) -> Process:
    """Run the agent and a licensed program. Activate again: node and seat stay the same."""
    with story.step("the agent runs and a licensed program is granted its entitlement") as say:
        machine.up()
        machine.run("entitlement", ENTITLEMENT)
        machine.run("entitlement", "something-else", expect=3)
        command = [sys.executable, str(Path(__file__).with_name("licensed_program.py"))]
        program = start_program(directory, "program", [*command, str(machine.socket), ENTITLEMENT])
        ends.enter_context(ended(program))
        wait_until("the program's start", lambda: lines(program)[-1:] == [GRANTED])
        say("granted, limit 2; an entitlement the licence does not name is denied")
    with story.step("the same TPM activates again") as say:
        machine.down()
        again = machine.run("activate", str(file))
        check(again["node"] == node, "it became another node")
        tenant = again["tenant"]
        (code,) = cloud.run("code", "list", tenant)
        check(code["seats_taken"] == 1, f"{code['seats_taken']} seats are taken")
        check(len(cloud.run("node", "list", "--tenant", tenant)) == 1, "there is more than one node")
        machine.up()
        say(f"same node, same seat, generation {again['generation']}")
    return program


def offline(story: Story, cloud: Cloud, machine: Machine, other: Machine) -> None:
    """Stop the cloud. The stored lease keeps the machine running, but no machine with another TPM."""
    with story.step("the cloud goes away; the restarted agent runs on its cached lease") as say:
        cloud.down()
        machine.down()
        # A thief of the disk has this copy: a valid licence.
        shutil.copytree(machine.state, other.state)
        machine.up()
        machine.run("entitlement", ENTITLEMENT)
        lease = machine.ask("/v1/status")["license"]["lease"]
        left = datetime.fromisoformat(lease["terminate_at"]) - datetime.now(UTC)
        say(f"granted without a cloud; the lease runs for {left.days} more days")
    with story.step("its state directory, copied beside another TPM") as say:
        other.up()
        other.run("entitlement", ENTITLEMENT, expect=3)
        other.run("status", expect=84)
        other.down()
        say("hardware-mismatch: the gate stays closed")


def standing(story: Story, cloud: Cloud, machine: Machine, node: str, program: Process) -> None:
    """Start the cloud again; suspend, resume and revoke the node."""
    with story.step("the cloud comes back; the operator suspends the node, then resumes it") as say:
        cloud.up()
        wait_until("the agent's contact", lambda: machine.ask("/v1/status")["last_contact_at"])
        cloud.run("node", "suspend", node, "--reason", "invoice overdue")
        stopped = machine.wait_state("suspended")
        machine.run("entitlement", ENTITLEMENT, expect=3)
        wait_until("the program's stop", lambda: lines(program)[-1] == "denied")
        cloud.run("node", "resume", node)
        resumed = machine.wait_state("active")
        wait_until("the program's return", lambda: lines(program)[-1] == GRANTED)
        say(f"denied after {stopped:.1f} s, granted again after {resumed:.1f} s")
    with story.step("the operator revokes the node") as say:
        began = time.monotonic()
        cloud.run("node", "revoke", node, "--reason", "returned")
        machine.wait_state("revoked")
        wait_until("the program's stop", lambda: lines(program)[-1] == "denied")
        seconds = time.monotonic() - began
        say(f"the licensed program stopped {seconds:.1f} s after the command was typed")


def strangers(story: Story, directory: Path, cloud: Cloud, machine: Machine) -> None:
    """Check the revocation with only the certificate, the root, openssl and curl."""
    with story.step("a stranger asks by OCSP and reads the CRL, with openssl and curl") as say:
        newest = max(machine.state.glob("identity/g-*/device.pem"))
        verdicts = Stranger(cloud, directory / "stranger").asks(x509.load_pem_x509_certificate(newest.read_bytes()))
        check(verdicts.ocsp == "revoked", f"OCSP said: {verdicts.ocsp}")
        check(verdicts.on_crl, "the CRL does not name the certificate")
        say("revoked, says OCSP; on the CRL too; both signatures verify")


def aftermath(story: Story, cloud: Cloud, machine: Machine, file: Path) -> None:
    """Show that the node stays revoked."""
    with story.step("restarted with the cloud up, it refuses to start") as say:
        machine.down()
        code = machine.launch().wait()
        check(code == 81, f"it exited {code}")
        say("exit 81 (revoked)")
    with story.step("the old activation code does not readmit it") as say:
        document = machine.run("activate", str(file), expect=77)
        check(document["error"]["code"] == "node_revoked", f"refused with {document['error']['code']}")
        say("refused: node_revoked")
    with story.step("restarted with the cloud gone, it still refuses") as say:
        cloud.down()
        code = machine.launch().wait()
        check(code == 81, f"it exited {code}")
        say("exit 81 (revoked), by the tombstone on its disk")


def main() -> int:
    print("Cascade: one machine from bare hardware to licensed, offline and revoked.", flush=True)
    story = Story()
    failed = ""
    try:
        with scratch_directory("cascade-demo-") as directory, ExitStack() as ends:
            cloud, machine, other = begin(story, directory, ends)
            node, file = activate(story, cloud, machine)
            program = work(story, directory, ends, cloud, machine, node, file)
            offline(story, cloud, machine, other)
            standing(story, cloud, machine, node, program)
            strangers(story, directory, cloud, machine)
            aftermath(story, cloud, machine, file)
            with story.step("everything stops") as say:
                program.stop()
                machine.down()
                cloud.down()
                say("nothing is left running")
    except StepFailed as error:
        failed = str(error)
    print(f"\n{story.table()}")
    if failed:
        print(f"\nthe demo failed: {failed}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
