"""The story of one machine: from bare hardware to licensed, offline, suspended and revoked."""

import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from demo.stage import Stage, Story
from lab.processes import BIN, Process, StepFailed, accepts, free_ports, wait_for
from lab.tpm import SoftTpm

ENTITLEMENT = "vision"
PORTS = 4
"""Fabric, Breakwater, and two that are open to strangers: the TUF repository, CRLs and OCSP."""
HEARTBEAT_SECONDS = 2
"""The story does not wait ten minutes for a node to notice that the cloud is back."""
STOPPED_WITHIN_SECONDS = 5.0


class Cloud:
    """`cascade up` in a directory of its own, and the operator's commands."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.directory = stage.directory / "cloud"
        self.port = free_ports(PORTS)
        self._process: Process | None = None
        self._env: dict[str, str] = {}

    def initialise(self) -> dict[str, Any]:
        document: dict[str, Any] = self._stage.run(
            ["cascade", "init", "--dir", str(self.directory), "--port-base", str(self.port)], {}
        )
        lines = (self.directory / "operator" / "env").read_text().splitlines()
        self._env = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        self._env["XDG_CACHE_HOME"] = str(self._stage.directory / "cache")
        return document

    def up(self) -> None:
        self._process = self._stage.start("cloud", [str(BIN / "cascade"), "up", "--dir", str(self.directory)], {})
        wait_for("the cloud's answer", self._answers)

    def _answers(self) -> bool:
        if self._process is None or not self._process.running():
            raise StepFailed(f"the cloud ended: {self._process.tail() if self._process else ''}")
        return all(accepts(port) for port in range(self.port, self.port + PORTS))

    def down(self) -> None:
        if self._process is not None:
            self._process.stop()

    def operate(self, *command: str, expect: int = 0) -> Any:
        return self._stage.run(["cascade", *command], self._env, expect)


class Machine:
    """One machine: a TPM, a state directory, the agent's command line."""

    def __init__(self, stage: Stage, name: str, tpm: SoftTpm) -> None:
        self._stage = stage
        self.name = name
        self.tpm = tpm
        self.state = stage.directory / name / "state"
        self.socket = stage.directory / name / "cascadia.sock"
        self.state.mkdir(parents=True, mode=0o700)
        config = stage.directory / name / "cascadia.toml"
        config.write_text(
            f'state_dir = "{self.state}"\nsocket = "{self.socket}"\ntpm = "{tpm.tcti}"\n'
            f'mode = "development"\nheartbeat_seconds = {HEARTBEAT_SECONDS}\nsettle_seconds = 5\n'
        )
        self._env = {**tpm.env, "CASCADIA_CONFIG": str(config)}
        self._agent: Process | None = None

    def command(self, *command: str, expect: int = 0) -> Any:
        return self._stage.run(["cascadia", *command], self._env, expect)

    def launch(self) -> Process:
        self._agent = self._stage.start(f"agent-{self.name}", [str(BIN / "cascadia"), "run"], self._env)
        return self._agent

    def start(self) -> None:
        agent = self.launch()

        def answers() -> bool:
            if not agent.running():
                raise StepFailed(f"the agent ended: {agent.tail()}")
            return self.socket.exists() and self.status()["agent_running"]

        wait_for("the agent's answer", answers)

    def stop(self) -> None:
        if self._agent is not None:
            self._agent.stop()
        self.socket.unlink(missing_ok=True)

    def status(self) -> Any:
        """Status of the running agent, whatever its exit code says."""
        import httpx

        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), trust_env=False) as client:
            return client.get("http://cascadia/v1/status").json()

    def wait_state(self, *states: str) -> float:
        """Seconds until the agent is in one of `states`."""
        began = time.monotonic()
        wait_for(f"state {' or '.join(states)}", lambda: self.status()["license"]["state"] in states)
        return time.monotonic() - began


def check(holds: bool, text: str) -> None:
    if not holds:
        raise StepFailed(text)


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def begin(story: Story, stage: Stage, cloud: Cloud) -> tuple[Machine, Machine]:
    """Two bare machines and a cloud that is up."""
    with story.step("two machines with a TPM each, behind a resource manager") as say:
        chips = [SoftTpm(stage.directory / f"chip-{name}", ca=stage.directory / "tpm-maker") for name in "ab"]
        for chip in chips:
            stage.adopt(chip.start())
        machines = Machine(stage, "a", chips[0]), Machine(stage, "b", chips[1])
        say("software TPMs of one maker; each has an endorsement certificate")
    with story.step("make a cloud: root and issuing CAs, signing keys, databases") as say:
        document = cloud.initialise()
        say(f"trust pin {document['trust_pin'][:20]}...; {len(document['take_offline'])} keys to take offline")
    with story.step("start every service in one process") as say:
        cloud.up()
        say("fabric, breakwater, the TUF repository, and CRLs with OCSP listen")
    return machines


def activate(story: Story, stage: Stage, cloud: Cloud, machine: Machine) -> tuple[str, Path]:
    """Tenant, trust, code; the machine becomes a node. Its id and the activation file."""
    file = stage.directory / "activation.json"
    with story.step("a tenant trusts the TPM maker's root and gets an activation file") as say:
        tenant = cloud.operate("tenant", "create", "acme")["id"]
        chain = stage.directory / "ek-roots.pem"
        chain.write_text(machine.tpm.ek_roots_pem.read_text() + machine.tpm.ek_intermediates_pem.read_text())
        cloud.operate("tenant", "trust", tenant, "--ek-root", str(chain))
        cloud.operate("code", "create", tenant, "--entitlement", ENTITLEMENT, "--seats", "1", "--out", str(file))
        check(file.stat().st_mode & 0o777 == 0o600, "the activation file is readable by others")
        say(f"one seat, entitlement {ENTITLEMENT!r}")
    with story.step("the machine activates, its identity key born in the TPM") as say:
        document = machine.command("activate", str(file))
        node = cloud.operate("node", "show", document["node"])["node"]
        check(node["tier"] == "attested", f"the tier is {node['tier']}")
        check(document["state"] == "active", f"the state is {document['state']}")
        say(f"{node['id']} is attested, generation {document['generation']}")
    return str(document["node"]), file


def work(story: Story, stage: Stage, cloud: Cloud, machine: Machine, node: str, file: Path) -> Process:
    """The agent runs and licensed software works; activating again changes nothing of node and seat."""
    output = stage.directory / "program.log"
    with story.step("the agent runs and a licensed program is granted its entitlement") as say:
        machine.start()
        machine.command("entitlement", ENTITLEMENT)
        machine.command("entitlement", "something-else", expect=3)
        command = [sys.executable, str(Path(__file__).with_name("licensed_program.py"))]
        program = stage.start("program", [*command, str(machine.socket), ENTITLEMENT], {})
        wait_for("the program's start", lambda: lines(output)[-1:] == ["granted"])
        say("granted; an entitlement the licence does not name is denied")
    with story.step("the same TPM activates again") as say:
        machine.stop()
        again = machine.command("activate", str(file))
        check(again["node"] == node, "it became another node")
        tenant = again["tenant"]
        (code,) = cloud.operate("code", "list", tenant)
        check(code["seats_taken"] == 1, f"{code['seats_taken']} seats are taken")
        check(len(cloud.operate("node", "list", "--tenant", tenant)) == 1, "there is more than one node")
        machine.start()
        say(f"same node, same seat, generation {again['generation']}")
    return program


def offline(story: Story, stage: Stage, cloud: Cloud, machine: Machine, other: Machine) -> None:
    """The cloud goes away; the cached lease carries on, but only beside its own TPM."""
    with story.step("the cloud goes away; the restarted agent runs on its cached lease") as say:
        cloud.down()
        machine.stop()
        # What a thief of the disk would have: a licence in force.
        shutil.copytree(machine.state, other.state, dirs_exist_ok=True)
        machine.start()
        machine.command("entitlement", ENTITLEMENT)
        lease = machine.status()["license"]["lease"]
        left = datetime.fromisoformat(lease["terminate_at"]) - datetime.now(UTC)
        say(f"granted without a cloud; the lease runs for {left.days} more days")
    with story.step("its state directory, copied beside another TPM") as say:
        other.start()
        other.command("entitlement", ENTITLEMENT, expect=3)
        other.command("status", expect=84)
        other.stop()
        say("hardware-mismatch: the gate stays closed")


def standing(story: Story, stage: Stage, cloud: Cloud, machine: Machine, node: str) -> None:
    """Back online: suspended, resumed, revoked."""
    output = stage.directory / "program.log"
    with story.step("the cloud comes back; the operator suspends the node, then resumes it") as say:
        cloud.up()
        wait_for("the agent's contact", lambda: machine.status()["last_contact_at"])
        cloud.operate("node", "suspend", node, "--reason", "invoice overdue")
        stopped = machine.wait_state("suspended")
        machine.command("entitlement", ENTITLEMENT, expect=3)
        wait_for("the program's stop", lambda: lines(output)[-1] == "denied")
        cloud.operate("node", "resume", node)
        resumed = machine.wait_state("active")
        wait_for("the program's return", lambda: lines(output)[-1] == "granted")
        say(f"denied after {stopped:.1f} s, granted again after {resumed:.1f} s")
    with story.step("the operator revokes the node") as say:
        began = time.monotonic()
        cloud.operate("node", "revoke", node, "--reason", "returned")
        machine.wait_state("revoked")
        wait_for("the program's stop", lambda: lines(output)[-1] == "denied")
        seconds = time.monotonic() - began
        check(seconds < STOPPED_WITHIN_SECONDS, f"it took {seconds:.1f} s")
        say(f"the licensed program stopped {seconds:.1f} s after the command was typed")


def strangers(story: Story, stage: Stage, cloud: Cloud, machine: Machine) -> None:
    """What anybody learns of the revoked machine, with the certificate, the root, openssl and curl."""
    with story.step("a stranger asks by OCSP and reads the CRL, with openssl and curl") as say:
        folder = stage.directory / "stranger"
        folder.mkdir()
        leaf, issuer = x509.load_pem_x509_certificates(newest(machine).read_bytes())[:2]
        root = (cloud.directory / "breakwater" / "certs" / "root.pem").read_bytes()
        for name, content in (("leaf", pem(leaf)), ("issuer", pem(issuer)), ("cas", pem(issuer) + root)):
            (folder / f"{name}.pem").write_bytes(content)
        where = ("-url", ocsp_address(leaf), "-issuer", "issuer.pem", "-CAfile", "cas.pem")
        said = stage.tool(folder, "openssl", "ocsp", *where, "-cert", "leaf.pem")
        check("Response verify OK" in said and "leaf.pem: revoked" in said, f"OCSP said: {said}")
        stage.tool(folder, "curl", "--silent", "--show-error", "--fail", "--output", "list.crl", crl_address(leaf))
        read = ("-inform", "DER", "-in", "list.crl", "-CAfile", "cas.pem", "-noout", "-text")
        said = stage.tool(folder, "openssl", "crl", *read)
        check("verify OK" in said and f"{leaf.serial_number:X}" in said, f"the CRL says: {said}")
        say("revoked, says OCSP; on the CRL too; both signatures verify")


def newest(machine: Machine) -> Path:
    """The device certificate of the newest generation, and its issuer's."""
    return max(machine.state.glob("identity/g-*/device.pem"))


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def ocsp_address(leaf: x509.Certificate) -> str:
    about = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    kind = AuthorityInformationAccessOID.OCSP
    return next(str(each.access_location.value) for each in about if each.access_method == kind)


def crl_address(leaf: x509.Certificate) -> str:
    (point,) = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    check(point.full_name is not None, "the certificate does not say where its CRL is")
    return next(str(name.value) for name in point.full_name or ())


def aftermath(story: Story, cloud: Cloud, machine: Machine, file: Path) -> None:
    """A revoked node stays revoked."""
    with story.step("restarted with the cloud up, it refuses to start") as say:
        machine.stop()
        code = machine.launch().exit_code()
        check(code == 81, f"it exited {code}")
        say("exit 81 (revoked)")
    with story.step("the old activation code does not readmit it") as say:
        document = machine.command("activate", str(file), expect=77)
        check(document["error"]["code"] == "node_revoked", f"refused with {document['error']['code']}")
        say("refused: node_revoked")
    with story.step("restarted with the cloud gone, it still refuses") as say:
        cloud.down()
        code = machine.launch().exit_code()
        check(code == 81, f"it exited {code}")
        say("exit 81 (revoked), by the tombstone on its disk")


def main() -> int:
    print("Cascade: one machine from bare hardware to licensed, offline and revoked.", flush=True)
    story = Story()
    failed = ""
    try:
        with Stage() as stage:
            cloud = Cloud(stage)
            machine, other = begin(story, stage, cloud)
            node, file = activate(story, stage, cloud, machine)
            program = work(story, stage, cloud, machine, node, file)
            offline(story, stage, cloud, machine, other)
            standing(story, stage, cloud, machine, node)
            strangers(story, stage, cloud, machine)
            aftermath(story, cloud, machine, file)
            with story.step("everything stops") as say:
                program.stop()
                machine.stop()
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
