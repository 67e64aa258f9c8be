"""Helpers of the agent's tests: an activated state directory, and the parts over it."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from node.clock import Clock
from node.config import BUILT_AT, Config
from node.disk.identity import Identity
from node.exchanges.contact import Contact
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Tpm
from node.licensing.boot_time import machine_clocks
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.licensing.trusted_time import TrustedTime, first_floor
from node.state import State
from node.trust.files import METADATA, Generation, publish
from node.trust.published import TrustSet
from protocol.encoding import json_encode, sha256_hex
from protocol.messages.activation import TrustPin
from protocol.messages.sessions import StatementAnswer
from protocol.signed.trust import TARGET_SERVICES, TARGET_SIGNING_KEYS, TARGET_X509_BUNDLE, SigningKeys
from tests.off_loop import off_loop
from tests.simulators.chip_memory import forget_counters
from tests.simulators.fabric import DOMAIN, NODE, TENANT, Fabric, utc_now

ROOT = b"{}"
PIN = TrustPin(1, sha256_hex(ROOT))
VERSION = 7
"""The version of the TUF targets."""
URL = "http://127.0.0.1:1"


def forget_floors(tcti: str) -> None:
    """Remove the floor counter of the simulated node from a chip that many tests share."""
    port = Tpm(tcti)
    off_loop(lambda: port.call(partial(forget_counters, label=f"{DOMAIN}/{NODE}")))
    off_loop(port.close)


def trust_of(fabric: Fabric) -> TrustSet:
    return TrustSet(fabric.ring, fabric.bundle, fabric.urls, PIN, URL, 1, VERSION)


def publish_trust(state: Path, fabric: Fabric) -> None:
    """Store the trust that an activation would have stored. Only an update would read its metadata."""
    files = {
        "1.root.json": ROOT,
        **dict.fromkeys(METADATA, b"{}"),
        "targets.json": json_encode({"signed": {"version": VERSION}}),
        TARGET_SIGNING_KEYS: json_encode(SigningKeys(1, fabric.verification_keys())),
        TARGET_X509_BUNDLE: json_encode(fabric.bundle),
        TARGET_SERVICES: json_encode(fabric.urls),
    }
    (state / "trust").mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    publish(state / "trust", Generation(URL, PIN, files))


def identity(fabric: Fabric, ak: WrappedKey, node_key: WrappedKey, generation: int = 1) -> Identity:
    fabric.last_generation = max(fabric.last_generation, generation)
    return Identity(
        trust_domain=DOMAIN,
        tenant=TENANT,
        node=NODE,
        generation=generation,
        activated_at=utc_now(),
        confirm_by=utc_now() + timedelta(days=1),
        fingerprint_salt=bytes(32),
        ak=ak,
        node_key=node_key,
        chain=fabric.node_chain(node_key.public_key(), generation),
    )


def install(directory: Path, fabric: Fabric, ak: WrappedKey, node_key: WrappedKey, token: str = "") -> State:
    """A node in generation 1, confirmed, with this statement; by default a new lease."""
    state = State(directory)
    publish_trust(directory, fabric)
    state.identities.save_generation(identity(fabric, ak, node_key))
    state.identities.switch_to(1)
    fabric.confirmed = 1
    fabric.say(token or fabric.lease())
    apply(load_licence(state), fabric, fabric.statement)
    return state


def hardware(*, ours: bool = False) -> HardwareCheck:
    """A hardware check whose TPM cannot be reached. With `ours` the TPM has answered before."""
    check = HardwareCheck(Tpm("none"))
    if ours:
        check.report_ours()
    return check


def trusted_time(wall: Clock = utc_now) -> TrustedTime:
    """Trusted time of a machine without a record, which has booted with this wall clock."""
    return TrustedTime(first_floor(BUILT_AT), machine_clocks(wall))


def load_licence(state: State, *, ours: bool = False) -> Licence:
    """The licence of a start. With `ours` the TPM has answered."""
    return state.load_licence(hardware(ours=ours), machine_clocks())


def contact_of(state: State, tpm: Tpm) -> Contact:
    """A contact over a TPM that was not checked yet."""
    check = HardwareCheck(tpm)
    return Contact(state, tpm, check, state.load_licence(check, machine_clocks()), utc_now)


def answer(fabric: Fabric, token: str, nonce: str = "n" * 32, generation: int = 1) -> StatementAnswer:
    return StatementAnswer(token, fabric.freshness(nonce, token, generation))


def apply(licence: Licence, fabric: Fabric, token: str) -> bool:
    """Apply a statement, and store it. Returns whether it is new."""
    new = licence.apply(answer(fabric, token, generation=licence.identity.generation), "n" * 32).new
    store(licence)
    return new


def store(licence: Licence) -> None:
    """Store what waits, in this thread: a test without a loop can call it. Raises the error of the first record."""
    saver = licence._saver
    while saver._waiting:
        _, waiting = saver._waiting.popitem()
        for error in saver.store.record(waiting.accepted, waiting.at).values():
            raise error


class Refreshes:
    """Gives the trust of each refresh, and counts the refreshes."""

    def __init__(self, make: Callable[[], TrustSet]) -> None:
        self.make = make
        self.asked = 0

    async def refresh(self, _: Path, **_held: object) -> TrustSet:
        self.asked += 1
        return self.make()


def agent_config(directory: Path, *, settle_seconds: int) -> Config:
    """Settings of an agent in development mode: its state is in `directory`/state, its socket is `directory`/s."""
    return Config(
        state_dir=directory / "state",
        socket=directory / "s",
        tpm="tests",
        mode="development",
        heartbeat_seconds=2,
        settle_seconds=settle_seconds,
    )
