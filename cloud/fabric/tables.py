"""Tables: the columns and types of Fabric's tables. Only `store` reads and writes them.

`store.rows` explains the columns. Times are aware UTC. Lists and maps are JSON text. Primary keys are values that
Fabric chooses, never numbers of the database. There are no foreign keys. A row names another row by id, and the use
cases write related rows in one transaction.
"""

from piccolo.columns import BigInt, Boolean, Bytea, Integer, Text, Timestamptz, Varchar
from piccolo.table import Table

from cloud.storage import UNBOUND
from cloud.tasks.current_request import REQUEST_ID_CHARS

ID = 64
INDEXES = (
    ("activation", "code", "created_at"),
    ("activation", "code", "ek_hash"),
    ("activation", "tenant", "state", "id"),
    ("node", "standing", "seat_held", "id"),
    ("node", "clone_cause", "id"),
    ("node", "hold", "id"),
    ("node", "tenant", "overlap_until"),
    ("ek_allowed", "tenant", "id"),
    ("event_consumer", "tenant", "id"),
    ("code", "expired", "expires_at"),
    ("airgap_exchange", "tenant", "id"),
    ("activation", "proof_hash"),
    ("recovery_case", "tenant", "id"),
    ("recovery_case", "tenant", "grace", "opened_at"),
)
"""Indexes over several columns, which Piccolo's columns cannot say: the table, then the columns."""


class Installation(Table, db=UNBOUND, tablename="installation"):
    """Values of the whole installation by name: epoch, nonce key, key of EK hashes, renewal order, session ends."""

    name = Varchar(length=ID, primary_key=True)
    value = Bytea()


class Tenant(Table, db=UNBOUND, tablename="tenant"):
    """A tenant, its fingerprint salt, and the tiers that it admits."""

    id = Varchar(length=ID, primary_key=True)
    name = Text()
    fingerprint_salt = Bytea()
    tiers = Text()
    created_at = Timestamptz(default=None)
    pcr_policies = Text(default="{}")
    clone_policy = Varchar(length=32, default="newest-in-grace")
    approval_tiers = Text(default="[]")
    lease_terms = Text(default="{}")
    recovery = Text(default="{}")


class EkRoot(Table, db=UNBOUND, tablename="ek_root"):
    """A maker's CA that a tenant trusts to certify endorsement keys."""

    id = Varchar(length=ID, primary_key=True)
    tenant = Varchar(length=ID, index=True)
    sha256 = Varchar(length=ID)
    certificate = Bytea()
    ek_type = Varchar(length=16)
    added_at = Timestamptz(default=None)


class EkAllowed(Table, db=UNBOUND, tablename="ek_allowed"):
    """A chip that a tenant admits as `attested` without an endorsement certificate."""

    id = Varchar(length=ID, primary_key=True)
    tenant = Varchar(length=ID, index=True)
    ek_name = Varchar(length=256)
    note = Text()
    added_at = Timestamptz(default=None)


class Code(Table, db=UNBOUND, tablename="code"):
    """An activation code. The row holds a hash of its text, not the text."""

    id = Varchar(length=ID, primary_key=True)
    tenant = Varchar(length=ID, index=True)
    secret_hash = Varchar(length=ID, unique=True)
    profile = Text()
    entitlements = Text()
    lease = Text()
    seats = Integer()
    seats_taken = Integer()
    readmit_node = Varchar(length=ID, null=True, default=None)
    created_at = Timestamptz(default=None)
    expires_at = Timestamptz(default=None)
    revoked_at = Timestamptz(null=True, default=None)
    intervals = Text(default="null")
    approval = Boolean(default=False)
    tier_min = Varchar(length=16, default="software")
    proof_key = Varchar(length=ID, default="", index=True)
    expired = Boolean(default=False)


class Activation(Table, db=UNBOUND, tablename="activation"):
    """One run of the activation exchange."""

    id = Varchar(length=ID, primary_key=True)
    tenant = Varchar(length=ID)
    code = Varchar(length=ID, index=True)
    state = Varchar(length=16, index=True)
    tries = Integer()
    secret_hash = Varchar(length=ID)
    ek_hash = Varchar(length=ID)
    ak_public = Bytea()
    tier = Varchar(length=16)
    agent_version = Text()
    created_at = Timestamptz(default=None)
    expires_at = Timestamptz(default=None)
    node = Varchar(length=ID, index=True)
    generation = Integer()
    proof_hash = Varchar(length=ID)
    csr = Bytea()
    not_after = Timestamptz(null=True, default=None)
    confirm_by = Timestamptz(null=True, default=None)
    certificate_chain = Text()
    ek_name = Varchar(length=256, default="")
    ek_issuer = Text()
    address = Text()
    fingerprint = Text(default="{}")
    matched = Varchar(length=16)
    candidate = Varchar(length=ID)
    seat_reserved = Boolean(default=False)
    asked_at = Timestamptz(null=True, default=None)
    approve_by = Timestamptz(null=True, default=None)
    decided_at = Timestamptz(null=True, default=None)
    decided_by = Varchar(length=ID)
    decision_reason = Text()
    recovery = Varchar(length=ID, default="")
    claim = Text(default="null")


class Node(Table, db=UNBOUND, tablename="node"):
    """A node: one machine of one tenant, identified by its chip."""

    id = Varchar(length=ID, primary_key=True)
    tenant = Varchar(length=ID, index=True)
    ek_hash = Varchar(length=ID, unique=True)
    standing = Varchar(length=16, index=True)
    standing_reason = Text()
    standing_at = Timestamptz(default=None)
    current_generation = Integer()
    last_generation = Integer()
    closed_up_to = Integer()
    closed_at_issuer = Integer()
    closing = Boolean(index=True)
    epoch = BigInt()
    seq = BigInt()
    code = Varchar(length=ID, index=True)
    seat_held = Boolean()
    tier = Varchar(length=16)
    profile = Text()
    entitlements = Text()
    lease = Text()
    lease_until = Timestamptz(null=True, default=None)
    wake_cursor = BigInt()
    created_at = Timestamptz(default=None)
    confirmed_at = Timestamptz(null=True, default=None)
    development = Boolean(default=False)
    superseded_asked_at = Timestamptz(null=True, default=None)
    superseded_asked_generation = Integer(default=0)
    clone_cause = Varchar(length=32, default="")
    clone_at = Timestamptz(null=True, default=None)
    intervals = Text(default="null")
    floor_index = BigInt(default=0)
    floor_value = BigInt(default=0)
    floor_reset_at = Timestamptz(null=True, default=None)
    enrolled = Text(default="{}")
    overlap_until = Timestamptz(null=True, default=None)
    presented_epoch = BigInt(default=1)
    hold = Varchar(length=16, default="")
    hold_at = Timestamptz(null=True, default=None)
    reconstructed_at = Timestamptz(null=True, default=None)
    repairs = Text(default="[]")
    silent_until = Timestamptz(null=True, default=None)


class ClosedNode(Table, db=UNBOUND, tablename="closed_node"):
    """The closed generations of a node that has no row in this database."""

    node = Varchar(length=ID, primary_key=True)
    tenant = Varchar(length=ID)
    closed_up_to = BigInt()
    closed = Text(default="[]")
    source = Varchar(length=16)
    at = Timestamptz(default=None)


class RevokedSerial(Table, db=UNBOUND, tablename="revoked_serial"):
    """The serial number (hex) of a certificate in a CRL that an operator imported."""

    serial = Varchar(length=40, primary_key=True)
    at = Timestamptz(default=None)


class EnrolledComponent(Table, db=UNBOUND, tablename="enrolled_component"):
    """A disk's or board's component in the enrolled fingerprint of a software node, to find the node by it."""

    id = Varchar(length=192, primary_key=True)
    tenant = Varchar(length=ID)
    value = Varchar(length=64, index=True)
    node = Varchar(length=ID, index=True)


class DeniedComponent(Table, db=UNBOUND, tablename="denied_component"):
    """A disk's or board's component of a denied machine without a TPM, to know the machine when it asks again."""

    id = Varchar(length=192, primary_key=True)
    code = Varchar(length=ID)
    value = Varchar(length=64, index=True)
    activation = Varchar(length=ID, index=True)


class Generation(Table, db=UNBOUND, tablename="generation"):
    """A generation of a node: the key of one activation, and the generation's current statement."""

    id = Varchar(length=ID, primary_key=True)
    node = Varchar(length=ID, index=True)
    number = Integer()
    state = Varchar(length=16)
    node_public_key = Bytea()
    ak_public = Bytea()
    fingerprint = Text()
    agent_version = Text()
    created_at = Timestamptz(default=None)
    confirmed_at = Timestamptz(null=True, default=None)
    certificate_not_after = Timestamptz(null=True, default=None)
    statement = Text()
    statement_type = Varchar(length=16)
    seq = BigInt()
    issued_at = Timestamptz(null=True, default=None)
    refresh_after = Timestamptz(null=True, default=None)
    terminate_at = Timestamptz(null=True, default=None)
    told_at = Timestamptz(null=True, default=None)
    seen_at = Timestamptz(null=True, default=None)
    seen_fingerprint = Text()
    trust_version = BigInt()
    device_issuer = Varchar(length=ID)
    ek_name = Varchar(length=256, default="")
    lease_version = Integer(default=1)
    lease_facts = Varchar(length=ID, default="")
    drift = Text(default="null")
    machines = Text(default="[]")
    pcr_accepted = Text(default="[]")
    pcr_values = Text(default="[]")
    pcr_fault = Text()
    pcr_changed_at = Timestamptz(null=True, default=None)
    holders = Text(default="")
    holders_version = Integer(default=0)
    sessions_from = Timestamptz(null=True, default=None)
    recovery = Varchar(length=ID, default="")
    grace_until = Timestamptz(null=True, default=None)
    former_keys = Text(default="[]")


class RecoveryCase(Table, db=UNBOUND, tablename="recovery_case"):
    """A recovery case: a machine asks for its node back."""

    id = Varchar(length=ID, primary_key=True)
    tenant = Varchar(length=ID)
    node = Varchar(length=ID, index=True)
    situation = Varchar(length=32)
    state = Varchar(length=16, index=True)
    needs = Varchar(length=32)
    evidence = Text()
    activation = Varchar(length=ID, index=True)
    ek_hash = Varchar(length=ID)
    old_ek_hash = Varchar(length=ID, index=True)
    old_generation = Integer()
    generation = Integer()
    overlap_until = Timestamptz(null=True, default=None)
    opened_at = Timestamptz(default=None)
    decide_by = Timestamptz(default=None)
    next_allowed_at = Timestamptz(null=True, default=None)
    decided_at = Timestamptz(null=True, default=None)
    decided_by = Varchar(length=ID)
    reason = Text()
    code = Varchar(length=ID)
    grace = Boolean(default=False)
    grace_until = Timestamptz(null=True, default=None)
    silent_until = Timestamptz(null=True, default=None)
    returned_at = Timestamptz(null=True, default=None)


class Renewal(Table, db=UNBOUND, tablename="renewal"):
    """One renewal of a device certificate with new TPM evidence: for a due certificate, or for a new key."""

    id = Varchar(length=ID, primary_key=True)
    node = Varchar(length=ID, index=True)
    tenant = Varchar(length=ID)
    generation = Integer()
    state = Varchar(length=16, index=True)
    tries = Integer()
    secret_hash = Varchar(length=ID)
    expired = Boolean()
    created_at = Timestamptz(default=None, index=True)
    expires_at = Timestamptz(default=None)
    proof_hash = Varchar(length=ID)
    csr = Bytea()
    node_public_key = Bytea()
    not_after = Timestamptz(null=True, default=None)
    certificate_chain = Text()
    ak_public = Bytea(default=b"")
    held_key = Varchar(length=ID, default="")
    agent_version = Text()
    returned = Boolean(default=False)


class RecoveryCode(Table, db=UNBOUND, tablename="recovery_code"):
    """A recovery code of a node or of a whole tenant. The row holds a keyed hash of its text, not the text."""

    id = Varchar(length=ID, primary_key=True)
    tenant = Varchar(length=ID, index=True)
    secret_hash = Varchar(length=ID, unique=True)
    node = Varchar(length=ID, index=True)
    recovery_case = Varchar(length=ID)
    created_at = Timestamptz(default=None)
    created_by = Varchar(length=ID)
    usable_from = Timestamptz(default=None)
    expires_at = Timestamptz(default=None)
    used_at = Timestamptz(null=True, default=None)
    used_case = Varchar(length=ID)
    revoked_at = Timestamptz(null=True, default=None)
    proof_key = Varchar(length=ID, default="", index=True)


class AirgapExchange(Table, db=UNBOUND, tablename="airgap_exchange"):
    """An answered request of a node without a network."""

    id = Varchar(length=ID, primary_key=True)
    tenant = Varchar(length=ID)
    node = Varchar(length=ID, index=True)
    generation = Integer()
    kind = Varchar(length=16)
    state = Varchar(length=16)
    request_sha256 = Varchar(length=ID)
    activation = Varchar(length=ID)
    made_at = Timestamptz(default=None)
    clock = Text(default="null")
    answered_at = Timestamptz(default=None, index=True)
    valid_until = Timestamptz(default=None, index=True)
    answered_by = Varchar(length=ID)
    seq = BigInt()
    statement_type = Varchar(length=16)
    statement_sha256 = Varchar(length=ID)
    answer = Text()
    answers_sha256 = Text(default="[]")
    received_at = Timestamptz(null=True, default=None)
    imported_at = Timestamptz(null=True, default=None)


class RevokedService(Table, db=UNBOUND, tablename="revoked_service"):
    """A service's certificate that Breakwater has reported as revoked. The row is deleted some time after its end."""

    serial = Varchar(length=40, primary_key=True)
    not_after = Timestamptz(default=None)


class OperatorToken(Table, db=UNBOUND, tablename="operator_token"):
    """A bearer token of an operator. The row holds a hash of its text, not the text."""

    id = Varchar(length=ID, primary_key=True)
    name = Text()
    secret_hash = Varchar(length=ID, unique=True)
    created_at = Timestamptz(default=None)
    expires_at = Timestamptz(null=True, default=None)
    revoked_at = Timestamptz(null=True, default=None)


class EventConsumer(Table, db=UNBOUND, tablename="event_consumer"):
    """A tenant's consumer of the copy of events in NATS. `public_key` is that of its program, as NATS writes it."""

    id = Varchar(length=ID, primary_key=True)
    tenant = Varchar(length=ID)
    name = Varchar(length=256)
    public_key = Varchar(length=ID)
    created_at = Timestamptz(default=None)
    expires_at = Timestamptz(default=None)
    revoked_at = Timestamptz(null=True, default=None)


class Audit(Table, db=UNBOUND, tablename="audit"):
    """An audit entry, inserted in the transaction of the change that it records. Rows are never changed."""

    id = Varchar(length=ID, primary_key=True)
    at = Timestamptz(default=None)
    actor = Text()
    action = Varchar(length=ID)
    object = Varchar(length=ID, index=True)
    tenant = Varchar(length=ID, index=True)
    outcome = Varchar(length=16)
    detail = Text()
    request = Varchar(length=REQUEST_ID_CHARS, default="")


class TufMetadata(Table, db=UNBOUND, tablename="tuf_metadata"):
    """One signed metadata file of the TUF repository. Rows are only added."""

    id = Varchar(length=ID, primary_key=True)
    role = Varchar(length=16, index=True)
    version = BigInt()
    data = Bytea()


class TufTarget(Table, db=UNBOUND, tablename="tuf_target"):
    """The content of one version of a target file. Rows are only added."""

    id = Varchar(length=192, primary_key=True)
    data = Bytea()
