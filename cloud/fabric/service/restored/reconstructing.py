"""Use case: make the row of a node that the database has lost, from its device certificate and its statement.

The certificate is issued by a CA that is trusted now, and the caller has proved that the node has its key. The statement
is signed by us, and names this node and generation; a lease of version 2 also names the node key, or the key that the
node had before a rekey. So the row says what
Fabric once signed. It does not say what Fabric signed later: a revoked node can hide its revocation, and show the lease
that it had before. So the node keeps its lease, and gets no later dates until an operator decides.

- An unknown node is reconstructed while a rebuild runs (`Rebuilds`). It is `unconfirmed`.
- An unknown generation, or a later key, of a known node is taken up after a restore and while a rebuild runs: the node
  was activated again, or changed its key, after the backup. It is `conflicting`, or stays `unconfirmed`. A key is later
  if a rekey has not replaced it, and its statement or its certificate is later (`cloud.fabric.licensing.later_keys`). A
  later key with the stored statement changes nothing else.
- Generations that are known to be closed stay closed: those of Breakwater, imported ones, and those below a higher
  generation of the node. So do certificates in an imported CRL. A revocation that is presented closes its generation.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from cloud.fabric.attestation.software_evidence import anchor_values
from cloud.fabric.entropy import Entropy
from cloud.fabric.errors import CertificateRefused, IssuerRefused
from cloud.fabric.issuer import Issuer
from cloud.fabric.licensing.former_keys import FormerKey, find, with_former
from cloud.fabric.licensing.later_keys import follows_lease, former_of, in_force_since
from cloud.fabric.licensing.signing import Signer
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.nodes.chip_challenge import ChipChallenges
from cloud.fabric.service.nodes.device_certificate import Device
from cloud.fabric.service.nodes.known import unknown
from cloud.fabric.service.nodes.sessions import Shown
from cloud.fabric.service.nodes.statement_stream import StatementStream
from cloud.fabric.service.ports import Now, Transaction, WakeBackground
from cloud.fabric.service.restored.presenting import with_terms
from cloud.fabric.store.enrolled import EnrolledStore
from cloud.fabric.store.installation import InstallationStore
from cloud.fabric.store.keys import chip_key, machines_key, node_key, tenant_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.renewals import RenewalStore
from cloud.fabric.store.revoked import ClosedStore
from cloud.fabric.store.rows import FIRST_EPOCH, GenerationRow, NodeRow, TenantRow, generation_id
from cloud.fabric.store.tenants import TenantStore
from protocol.encoding import sha256_hex
from protocol.faults import fault_point
from protocol.ids import CodeId, NodeSpiffeId
from protocol.signed.statements import Lease, Revocation, Statement, Suspension, Tier, is_for, position

SALT_BYTES = 32
UNKNOWN_TENANT: tuple[Tier, ...] = ("attested", "tpm", "software")
"""Tiers of a tenant whose row was lost: its nodes may have any."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Makes rows of nodes from what they show. `epoch` is the installation's epoch."""

    epoch: int
    now: Now
    entropy: Entropy
    transaction: Transaction
    audit: AuditLog
    installation: InstallationStore
    tenants: TenantStore
    nodes: NodeStore
    enrolled: EnrolledStore
    renewals: RenewalStore
    closed: ClosedStore
    issuer: Issuer
    signer: Signer
    chip_challenges: ChipChallenges
    statement_stream: StatementStream
    wake_background: WakeBackground

    async def take_up(self, shown: Shown) -> None:
        """Write the rows that `shown` proves. The caller has checked the certificate and the proof.

        Raises NodeUnknown if the state of the cloud or the statement allows none, CertificateRefused if the certificate
        is known to be revoked, IssuerUnavailable.
        """
        statement = self.signer.presented(shown.token)
        spiffe, number = shown.device.spiffe, shown.device.generation
        rebuild = await self.installation.rebuild()
        rebuilding = rebuild is not None and self.now() < rebuild.until
        if not (rebuilding or self.epoch > FIRST_EPOCH):
            raise unknown()
        if statement is None or not is_for(statement, spiffe.tenant, spiffe.node, number):
            raise unknown()
        if not follows_lease(statement, sha256_hex(shown.device.spki), shown.device.issued_at):
            raise CertificateRefused("the lease names another key than the certificate, and is later")
        node = await self.nodes.find(spiffe.node)
        if (node is None and not rebuilding) or (node is not None and node.tenant != spiffe.tenant):
            raise unknown()
        if await self.closed.has_serial(shown.serial):
            raise CertificateRefused("the device certificate is in an imported CRL")
        superseded = node is not None and number <= max(node.closed_up_to, node.current_generation - 1)
        if not (superseded or isinstance(statement, Revocation)):
            await self._open_at_issuer(shown.device)
        await self._write(shown, statement)
        self.wake_background()

    async def is_revoked(self, serial: str) -> bool:
        """Whether an imported CRL has the certificate with this serial number (hex)."""
        return await self.closed.has_serial(serial)

    async def has_imported(self) -> bool:
        """Whether a CRL with a revoked certificate was imported."""
        return await self.closed.has_serials()

    async def _open_at_issuer(self, device: Device) -> None:
        """Open the generation at Breakwater, which may have lost it. Raises CertificateRefused, IssuerUnavailable."""
        known = await self.closed.find(device.spiffe.node)
        if known is not None and known.includes(device.generation):
            raise CertificateRefused("the generation of this certificate is closed")
        try:
            await self.issuer.open_generation(device.spiffe.tenant, device.spiffe.node, device.generation)
        except IssuerRefused as error:
            raise CertificateRefused("Breakwater has closed the generation of this certificate") from error

    async def _write(self, shown: Shown, statement: Statement) -> None:
        spiffe = shown.device.spiffe
        ek_hash = self._ek_hash(spiffe, statement)
        keys = node_key(spiffe.node), tenant_key(spiffe.tenant), chip_key(ek_hash), machines_key(spiffe.tenant)
        with fault_point("fabric.node.reconstruct"):
            async with self.transaction(*keys):
                tenant = await self._tenant(spiffe)
                node = await self.nodes.find(spiffe.node)
                is_new = node is None
                if await self.nodes.find_by_ek(ek_hash) is not None:
                    ek_hash = _unknown_chip(spiffe)  # another node has the chip meanwhile, or this one has it already
                if node is None:
                    node = _new_node(shown, statement, ek_hash, self.now())
                row = await self.nodes.find_generation(spiffe.node, shown.device.generation)
                node = await self._with_generation(node, row, shown, statement)
                if shown.device.generation == node.current_generation and ek_hash != _unknown_chip(spiffe):
                    node = msgspec.structs.replace(node, ek_hash=ek_hash)  # the board or the TPM was replaced
                write = self.nodes.insert if is_new else self.nodes.update
                await write(node, "reconstructed")
                if is_new and node.tier == "software":
                    values = anchor_values(node.enrolled, tenant.fingerprint_salt)
                    await self.enrolled.replace(node.tenant, node.id, values)
                await self.audit.write(
                    str(spiffe),
                    "node.reconstructed" if is_new else "node.generation_reconstructed",
                    node.id,
                    node.tenant,
                    generation=shown.device.generation,
                    statement=type(statement).__name__.lower(),
                    epoch=statement.epoch,
                    seq=statement.seq,
                    standing=node.standing,
                    hold=node.hold,
                )

    def _ek_hash(self, spiffe: NodeSpiffeId, statement: Statement) -> str:
        """The hash that identifies the chip. Without a lease of version 2 the chip is unknown."""
        if isinstance(statement, Lease) and statement.ek_name:
            return self.chip_challenges.ek_hash(spiffe.tenant, bytes.fromhex(statement.ek_name))
        return _unknown_chip(spiffe)

    async def _tenant(self, spiffe: NodeSpiffeId) -> TenantRow:
        """The tenant of the certificate. A lost one is made, without a name and without trusted hardware."""
        tenant = await self.tenants.find(spiffe.tenant)
        if tenant is None:
            tenant = TenantRow(
                id=spiffe.tenant,
                name=f"reconstructed {spiffe.tenant}",
                fingerprint_salt=self.entropy(SALT_BYTES),
                tiers=UNKNOWN_TENANT,
                created_at=self.now(),
            )
            await self.tenants.insert(tenant, "reconstructed")
            await self.audit.write(str(spiffe), "tenant.reconstructed", tenant.id, tenant.id)
        return tenant

    async def _with_generation(
        self, node: NodeRow, row: GenerationRow | None, shown: Shown, statement: Statement
    ) -> NodeRow:
        """Write the generation that the node shows. Returns the changed node. The caller writes the node."""
        number, now, device = shown.device.generation, self.now(), shown.device
        key, ahead = sha256_hex(device.spki), row is None
        seq = max(node.seq, statement.seq)
        node = msgspec.structs.replace(node, epoch=max(node.epoch, statement.epoch), seq=seq)
        node = msgspec.structs.replace(node, last_generation=max(node.last_generation, number))
        if row is None:
            row = _new_generation(node, shown, statement, now)
            await self.nodes.insert_generation(row)
        elif row.node_public_key != device.spki:
            ahead = self._check_key(row, shown, statement)
            left = FormerKey(sha256_hex(row.node_public_key), device.issued_at)
            former = with_former(row.former_keys, left, device.spki)
            former = former_of(former, statement, key, device.spki, device.issued_at)
            await self.renewals.set_key(node.id, number, device.spki, device.not_after, former)
            row = msgspec.structs.replace(row, node_public_key=device.spki, former_keys=former)
        if isinstance(statement, Revocation):
            return await self._revoked(node, row, statement, now)
        if number <= node.closed_up_to or number < node.current_generation:
            # A higher generation of this node was shown before. It closed this one.
            return await self.statement_stream.end_open_generations(node, number, now, "superseded")
        node = await self.statement_stream.end_open_generations(node, number - 1, now, "superseded")
        node = msgspec.structs.replace(node, current_generation=number, presented_epoch=self.epoch)
        if ahead:
            hold = node.hold or ("unconfirmed" if node.reconstructed_at is not None else "conflicting")
            node = msgspec.structs.replace(node, hold=hold, hold_at=node.hold_at or now)
        if isinstance(statement, Suspension):
            node = msgspec.structs.replace(
                node, standing="suspended", standing_reason=statement.reason, standing_at=statement.issued_at
            )
            held = node
            node, _ = await self.statement_stream.write_current(node, row, now)
            return msgspec.structs.replace(node, hold=held.hold, hold_at=held.hold_at)
        if isinstance(statement, Lease):
            node = with_terms(node, statement)
            node, _ = await self.statement_stream.adopt(node, row, statement, shown.token)
        return node

    def _check_key(self, row: GenerationRow, shown: Shown, statement: Statement) -> bool:
        """Check that the shown key is later than the stored one. A copy from before a rekey shows an earlier one.

        Returns whether the shown statement is later than the stored one. Otherwise it is the same, and the certificate
        is later. A refused machine proves itself with a renewal, which judges copies. Raises NodeUnknown.
        """
        if find(row.former_keys, sha256_hex(shown.device.spki)) is not None:
            raise unknown()
        stored = self.signer.presented(row.statement) if row.statement else None
        if stored is None or position(statement) > position(stored):
            return True
        since = in_force_since(sha256_hex(row.node_public_key), stored, row.former_keys)
        if position(statement) < position(stored) or since is None or shown.device.issued_at <= since:
            raise unknown()
        return False

    async def _revoked(self, node: NodeRow, row: GenerationRow, statement: Revocation, now: datetime) -> NodeRow:
        """Close the generation. A node whose current generation is revoked is revoked or released itself."""
        reason = statement.reason
        if reason != "superseded" and row.number >= node.current_generation:
            node = msgspec.structs.replace(
                node,
                standing=reason,
                standing_at=statement.issued_at,
                seat_held=node.seat_held and reason == "revoked",
                hold="",
                hold_at=None,
            )
        return await self.statement_stream.end_open_generations(node, row.number, now, reason)


def _unknown_chip(spiffe: NodeSpiffeId) -> str:
    """A value in the place of the chip's hash. It is no hash of a chip."""
    return f"unknown:{spiffe.node}"


def _tier_of(shown: Shown, statement: Statement) -> Tier:
    """The tier in the lease. Without one: the lowest tier that the node's evidence reaches."""
    if isinstance(statement, Lease):
        return statement.tier
    return "software" if shown.claims.clock is msgspec.UNSET else "tpm"


def _new_node(shown: Shown, statement: Statement, ek_hash: str, now: datetime) -> NodeRow:
    """A node with a seat that no code counts."""
    return NodeRow(
        id=shown.device.spiffe.node,
        tenant=shown.device.spiffe.tenant,
        ek_hash=ek_hash,
        standing="active",
        standing_reason="",
        standing_at=now,
        current_generation=0,
        last_generation=0,
        closed_up_to=0,
        closed_at_issuer=0,
        closing=False,
        epoch=statement.epoch,
        seq=statement.seq,
        code=CodeId(""),
        seat_held=True,
        tier=_tier_of(shown, statement),
        profile="",
        entitlements=(),
        lease=None,
        lease_until=None,
        wake_cursor=1,
        created_at=now,
        confirmed_at=now,
        enrolled=shown.claims.fingerprint,
        reconstructed_at=now,
    )


def _new_generation(node: NodeRow, shown: Shown, statement: Statement, now: datetime) -> GenerationRow:
    """The generation without its attestation key, which the next renewal with evidence shows."""
    device = shown.device
    lease = statement if isinstance(statement, Lease) else None
    return GenerationRow(
        id=generation_id(node.id, device.generation),
        node=node.id,
        number=device.generation,
        state="confirmed",
        node_public_key=device.spki,
        ak_public=b"",
        fingerprint=shown.claims.fingerprint,
        agent_version=shown.claims.agent_version,
        created_at=now,
        confirmed_at=now,
        certificate_not_after=device.not_after,
        statement="",
        statement_type="",
        seq=0,
        issued_at=None,
        refresh_after=None,
        terminate_at=None,
        told_at=None,
        ek_name=lease.ek_name if lease else "",
        former_keys=former_of((), statement, sha256_hex(device.spki), device.spki, device.issued_at),
        lease_version=lease.version if lease else 1,
        device_issuer=device.issuer,
    )
