"""Conditions in which administrators leave TPMs, what a machine does in each of them, and the cure of each.

A row takes copies of one software TPM. On the first copy a machine is activated, and then the condition is set: the
agent restarts, restarts after a simulated boot, renews and rekeys. On the second copy the condition is set before the
activation. Each step works, or is refused with the code of the true cause. Then the cure is followed, and everything
works. The agent never raises the counter of the TPM's dictionary-attack protection.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import StepFailed, ended, wait_until
from lab.tpm import SoftTpm
from node.disk.boot import RECORD
from tests.system.support.harness import new_machine

WORKS = "works"
ACTIVATE, RESTART, REBOOT, RENEW, REKEY = "activate", "restart", "reboot", "renew", "rekey"
STEPS = (ACTIVATE, RESTART, REBOOT, RENEW, REKEY)

SRK = "0x81000001"
ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt"
EK_INDEX = "0x01c00002"
_COUNTER = re.compile(r"TPM2_PT_LOCKOUT_COUNTER: (0x[0-9A-Fa-f]+)")

Act = Callable[[SoftTpm, Machine], None]
Running = AbstractContextManager[SoftTpm]
"""A chip that runs for the length of a block."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One condition. A step that `expected` does not name works.

    Attributes:
        name: the condition in words.
        prepare: the installer's work before the machine is activated.
        set: the administrator's work.
        cure: what the advice of the error says.
        expected: step to result. The result is `WORKS`, the code of an error, or for a start the state of the gate with
            the code of the agent's condition: "open tpm-lockout".
        activates: the condition is tried before an activation too.
        reactivates: the cure ends with an activation.
    """

    name: str
    set: Act
    cure: Act
    expected: Mapping[str, str] = {}
    prepare: Act = lambda chip, machine: None
    activates: bool = True
    reactivates: bool = False


def provision(chip: SoftTpm, _: Machine, *options: str, algorithm: str = "ecc256", attributes: str = "|noda") -> None:
    """Make a storage key persistent at 0x81000001, in place of an earlier one."""
    context = str(chip.directory / "srk")
    everything = f"{ATTRIBUTES}{attributes}"
    chip.administer("tpm2_createprimary", "-C", "o", "-G", algorithm, "-c", context, "-a", everything, *options)
    if SRK in chip.administer("tpm2_getcap", "handles-persistent").lower():
        chip.administer("tpm2_evictcontrol", "-C", "o", "-c", SRK)
    chip.administer("tpm2_evictcontrol", "-C", "o", "-c", context, SRK)


def _nothing(_chip: SoftTpm, _machine: Machine) -> None:
    """The condition needs no cure: everything works."""


def _evict(chip: SoftTpm, _: Machine) -> None:
    chip.administer("tpm2_evictcontrol", "-C", "o", "-c", SRK)


def _password(chip: SoftTpm, _: Machine, hierarchy: str) -> None:
    chip.administer("tpm2_changeauth", "-c", hierarchy, "secret")


def _both(chip: SoftTpm, machine: Machine, *acts: Act) -> None:
    for act in acts:
        act(chip, machine)


def _give_password(_: SoftTpm, machine: Machine, hierarchy: str) -> None:
    """Write the password to a file, and name the file in the settings."""
    path = machine.directory / f"tpm-{hierarchy}-auth"
    path.touch(mode=0o600)
    path.write_text("secret\n")
    with (machine.directory / "cascadia.toml").open("a") as file:
        file.write(f'tpm_{hierarchy}_auth = "{path}"\n')


def _disable(chip: SoftTpm, _: Machine, switch: str) -> None:
    chip.administer("tpm2_hierarchycontrol", "-C", "p", switch, "clear")


def _power_cycle(chip: SoftTpm, _: Machine) -> None:
    chip.reset()


def _lock(chip: SoftTpm, _: Machine) -> None:
    """Another program's object gets a wrong password until the TPM locks."""
    chip.administer("tpm2_dictionarylockout", "-s", "-n", "1", "-t", "3600", "-l", "0")
    context = str(chip.directory / "other")
    chip.administer("tpm2_createprimary", "-C", "o", "-p", "secret", "-c", context)
    chip.administer("tpm2_evictcontrol", "-C", "o", "-c", context, "0x81000099")
    for _try in range(2):
        try:
            chip.administer("tpm2_create", "-C", "0x81000099", "-P", "wrong", "-u", context + "u", "-r", context + "r")
        except Exception:  # noqa: BLE001, S112 (the refusal is the purpose)
            continue


def _clear(chip: SoftTpm, _: Machine) -> None:
    chip.clear()


def _hide(chip: SoftTpm, _: Machine) -> None:
    chip.stop_resource_manager()


def _show(chip: SoftTpm, _: Machine) -> None:
    chip.restart_resource_manager()


def _index(chip: SoftTpm, _: Machine, attributes: str) -> None:
    """Define the EK certificate's index again, without its content."""
    chip.administer("tpm2_nvreadpublic")
    content = chip.directory / "ek.der"
    if not content.exists():
        chip.administer("tpm2_nvread", "-C", "p", EK_INDEX, "-o", str(content))
    chip.administer("tpm2_nvundefine", "-C", "p", EK_INDEX)
    size = str(content.stat().st_size)
    chip.administer(
        "tpm2_nvdefine", "-C", "p", "-s", size, "-a", f"ppread|ppwrite|platformcreate|{attributes}", EK_INDEX
    )


def _restore_index(chip: SoftTpm, machine: Machine) -> None:
    """Write the certificate with the maker's tool."""
    _index(chip, machine, "ownerread|authread|no_da")
    chip.administer("tpm2_nvwrite", "-C", "p", EK_INDEX, "-i", str(chip.directory / "ek.der"))


def _without_pcr_bank(chip: SoftTpm, _: Machine) -> None:
    """The firmware's settings have the SHA-1 bank only, as on old machines. They count from the next boot on."""
    chip.administer("tpm2_pcrallocate", "sha1:all+sha256:none")
    chip.reset()


_OWNER_PASSWORD = partial(_password, hierarchy="owner")
_NOT_VOUCHED = {ACTIVATE: "evidence_refused", REKEY: "tier_refused"}
"""The cloud finds no certificate of the EK, and the tenant admits no TPM without one."""
_WANTED, _DISABLED = "tpm-hierarchy-password", "tpm-hierarchy-disabled"
_KEY_UNUSABLE = {
    ACTIVATE: _WANTED,
    RESTART: f"open {_WANTED}",
    REBOOT: f"open {_WANTED}",
    RENEW: _WANTED,
    REKEY: _WANTED,
}

CONDITIONS = (
    Condition(
        name="owner password, no persistent storage key",
        set=_OWNER_PASSWORD,
        cure=partial(_give_password, hierarchy="owner"),
        expected=_KEY_UNUSABLE,
    ),
    Condition(name="owner password, persistent storage key", prepare=provision, set=_OWNER_PASSWORD, cure=_nothing),
    Condition(
        name="endorsement password",
        set=partial(_password, hierarchy="endorsement"),
        cure=partial(_give_password, hierarchy="endorsement"),
        expected={ACTIVATE: _WANTED, REKEY: _WANTED},
    ),
    Condition(
        name="endorsement hierarchy disabled",
        set=partial(_disable, switch="ehEnable"),
        cure=_power_cycle,
        expected={ACTIVATE: _DISABLED, REKEY: _DISABLED},
    ),
    Condition(
        name="owner hierarchy disabled",
        set=partial(_disable, switch="shEnable"),
        cure=_power_cycle,
        expected={
            ACTIVATE: _DISABLED,
            RESTART: f"open {_DISABLED}",
            REBOOT: f"open {_DISABLED}",
            RENEW: _DISABLED,
            REKEY: _DISABLED,
        },
    ),
    Condition(
        name="RSA storage key evicted",
        prepare=partial(provision, algorithm="rsa2048"),
        set=_evict,
        cure=_nothing,
        activates=False,
    ),
    Condition(
        name="storage key replaced",
        prepare=partial(provision, algorithm="rsa2048"),
        set=partial(provision, algorithm="ecc256"),
        cure=_nothing,
    ),
    Condition(name="rekey under another parent", set=provision, cure=_nothing),
    Condition(name="rekey under an RSA parent", set=partial(provision, algorithm="rsa2048"), cure=_nothing),
    Condition(
        name="storage key under dictionary-attack protection, with a password",
        set=lambda chip, machine: provision(chip, machine, "-p", "secret", attributes=""),
        cure=_nothing,
    ),
    Condition(
        name="protected storage key with a password, and an owner password",
        set=lambda chip, machine: _both(
            chip, machine, lambda c, m: provision(c, m, "-p", "secret", attributes=""), _OWNER_PASSWORD
        ),
        cure=partial(_give_password, hierarchy="owner"),
        expected=_KEY_UNUSABLE,
    ),
    Condition(
        name="storage key with a password, exempt from dictionary-attack protection",
        set=lambda chip, machine: provision(chip, machine, "-p", "secret"),
        cure=_nothing,
    ),
    Condition(name="dictionary lock-out by others", set=_lock, cure=_nothing),
    Condition(name="no SHA-256 bank of PCRs", set=_without_pcr_bank, cure=_nothing),
    Condition(
        name="EK index defined and unwritten",
        set=partial(_index, attributes="ownerread|authread|no_da"),
        cure=_restore_index,
        expected=_NOT_VOUCHED,
    ),
    Condition(
        name="EK index not readable",
        set=partial(_index, attributes="policyread"),
        cure=_restore_index,
        expected=_NOT_VOUCHED,
    ),
    Condition(
        name="TPM cleared",
        set=_clear,
        cure=_nothing,
        expected={
            RESTART: "closed tpm-cleared",
            REBOOT: "closed tpm-cleared",
            RENEW: "hardware-mismatch",
            REKEY: "hardware-mismatch",
        },
        reactivates=True,
    ),
    Condition(
        name="TPM hidden",
        set=_hide,
        cure=_show,
        expected={
            ACTIVATE: "tpm-absent",
            RESTART: "open tpm-absent",
            REBOOT: "ended 87",
            RENEW: "tpm-absent",
            REKEY: "tpm-absent",
        },
    ),
)


class Row:
    """One condition on copies of a chip. `copy` starts a copy of this name. `results` and `findings` are the outcome."""

    def __init__(
        self, directory: Path, cloud: Cloud, tenant: str, condition: Condition, copy: Callable[[str], Running]
    ) -> None:
        self.results: dict[str, str] = {}
        self.findings: list[str] = []
        self._directory = directory
        self._cloud = cloud
        self._tenant = tenant
        self._condition = condition
        self._copy = copy

    def run(self) -> None:
        """Do the whole row."""
        self.activated()
        if self._condition.activates:
            self.fresh()

    def activated(self) -> None:
        """The condition is set on the TPM of an activated machine."""
        with self._copy("activated") as chip:
            machine = new_machine(self._directory / "activated", chip)
            with ended(machine):
                self._condition.prepare(chip, machine)
                self._activate(machine)
                self._start(machine)
                self._condition.set(chip, machine)
                before = _counter(chip)
                self._expect(RESTART, self._start(machine))
                (machine.directory / RECORD).unlink(missing_ok=True)
                self._expect(REBOOT, self._start(machine))
                self._expect(RENEW, _outcome(machine, "renew"))
                self._expect(REKEY, _outcome(machine, "renew", "--rekey"))
                if _counter(chip) != before:
                    self.findings.append(f"{self._condition.name}: the agent raised the lock-out counter")
                self._condition.cure(chip, machine)
                if self._condition.reactivates:
                    self._activate(machine)
                for arguments in (("renew",), ("renew", "--rekey")):
                    self._cured(" ".join(arguments), _outcome(machine, *arguments))
                (machine.directory / RECORD).unlink(missing_ok=True)
                self._cured("a boot", self._start(machine))

    def fresh(self) -> None:
        """The condition is set before the activation."""
        with self._copy("fresh") as chip:
            machine = new_machine(self._directory / "fresh", chip)
            with ended(machine):
                self._condition.prepare(chip, machine)
                self._condition.set(chip, machine)
                self._expect(ACTIVATE, _outcome(machine, "activate", str(self._code())))
                self._condition.cure(chip, machine)
                self._cured("an activation", _outcome(machine, "activate", str(self._code())))

    def _code(self) -> Path:
        return self._cloud.code(self._tenant)

    def _activate(self, machine: Machine) -> None:
        machine.run("activate", str(self._code()))

    def _start(self, machine: Machine) -> str:
        """Start and stop the agent. Returns `WORKS`, the gate with the conditions, or its exit code."""
        agent = machine.launch()
        wait_until("the agent", lambda: not agent.running or machine.answers())
        if not agent.running:
            return f"ended {agent.wait()}"
        status: Any = machine.ask("/v1/status")
        machine.down()
        gate = str(status["license"]["gate"])
        codes = sorted(each["code"] for each in status["conditions"] if each["code"].startswith("tpm-"))
        return WORKS if gate == "open" and not codes else " ".join((gate, *codes))

    def _expect(self, step: str, result: str) -> None:
        self.results[step] = result
        expected = self._condition.expected.get(step, WORKS)
        if result != expected:
            self.findings.append(f"{self._condition.name}: {step}: {result}, expected {expected}")

    def _cured(self, what: str, result: str) -> None:
        self.results["cured"] = WORKS if self.results.get("cured", WORKS) == result == WORKS else result
        if result != WORKS:
            self.findings.append(f"{self._condition.name}: {what} after the cure: {result}")


def _outcome(machine: Machine, *arguments: str) -> str:
    """`WORKS`, the code of the error that the command printed, or the state of a licence whose gate is closed."""
    document: Any = machine.run(*arguments, expect=None)
    if "error" in document:
        return str(document["error"]["code"])
    return WORKS if document["gate"] == "open" else str(document["state"])


def _counter(chip: SoftTpm) -> int | None:
    """The counter of the dictionary-attack protection; None if the TPM is hidden."""
    try:
        found = _COUNTER.search(chip.administer("tpm2_getcap", "properties-variable"))
    except Exception:  # noqa: BLE001 (a hidden TPM has no counter)
        return None
    if found is None:
        raise StepFailed("tpm2_getcap shows no lock-out counter")
    return int(found[1], 16)
