"""Tables of Breakwater. Only the stores read and write them.

Times are aware UTC. No foreign keys: a row names others by id, and the transactions in the store keep them in step.
"""

from piccolo.columns import BigInt, Bytea, Integer, Text, Timestamptz, Varchar
from piccolo.table import Table

from cloud.storage import UNBOUND

ID = 64
AUTHORITY = 32


class Authority(Table, db=UNBOUND, tablename="authority"):
    """One generation of a CA; `id` is class and number (`nodes-2`), `ca` the class: root, nodes or services.

    `state`: prepared -> active -> old -> tainted -> revoked. At most one of a class is active. `key` names where its
    private key is (`file:NAME`, `pkcs11:LABEL`; empty for a root, whose key is offline).
    """

    id = Varchar(length=AUTHORITY, primary_key=True)
    ca = Varchar(length=16)
    number = Integer()
    state = Varchar(length=16)
    certificate = Bytea()
    key = Varchar(length=128)
    changed_at = Timestamptz(default=None)
    reason = Text()


class CrossCertificate(Table, db=UNBOUND, tablename="cross_certificate"):
    """A root's name and key signed by another root; `id` is `subject:issuer`."""

    id = Varchar(length=80, primary_key=True)
    subject = Varchar(length=AUTHORITY)
    issuer = Varchar(length=AUTHORITY)
    certificate = Bytea()


class Counter(Table, db=UNBOUND, tablename="counter"):
    """A number that only grows, moved under its row's lock: `authorities` (changes), `revocation` (the feed)."""

    name = Varchar(length=32, primary_key=True)
    value = BigInt()


class Generation(Table, db=UNBOUND, tablename="generation"):
    """A generation that was opened, or closed alone; `id` is node and number.

    It is open when neither `closed_at` nor `Closing` says otherwise.
    """

    id = Varchar(length=96, primary_key=True)
    tenant = Varchar(length=ID)
    node = Varchar(length=ID, index=True)
    generation = BigInt()
    opened_at = Timestamptz(default=None)
    closed_at = Timestamptz(default=None, null=True)


class Closing(Table, db=UNBOUND, tablename="closing"):
    """Up to which generation a node is closed, opened ones or not; only ever grows."""

    node = Varchar(length=ID, primary_key=True)
    tenant = Varchar(length=ID)
    closed_up_to = BigInt()
    closed_at = Timestamptz(default=None)


class IssuedCertificate(Table, db=UNBOUND, tablename="certificate"):
    """The record of an issuance, made before the CA key is used, and then the certificate. It is the audit too.

    `state`: recorded -> issued -> revoked, or recorded -> orphaned; an orphan counts as revoked and is never signed.
    `request_key` is caller and request id; an orphan gives it up, so that a repeat makes a new record. `authority`
    signs it; `shard` is that of its CRL, empty for a certificate that no CRL will name (sessions, responders).
    `reason` is the RFC 5280 CRLReason, `feed` the place of a revoked service's serial in the revocation feed.
    """

    serial = Varchar(length=40, primary_key=True)
    request_key = Varchar(length=256, unique=True, null=True, default=None)
    profile = Varchar(length=16)
    state = Varchar(length=16, index=True)
    tenant = Varchar(length=ID)
    node = Varchar(length=ID, index=True)
    generation = BigInt()
    service = Varchar(length=ID, index=True)
    spki_sha256 = Varchar(length=ID, index=True)
    tbs = Bytea()
    certificate = Bytea(null=True, default=None)
    not_before = Timestamptz(default=None)
    not_after = Timestamptz(default=None)
    caller = Varchar(length=128)
    recorded_at = Timestamptz(default=None)
    revoked_at = Timestamptz(null=True, default=None)
    authority = Varchar(length=AUTHORITY)
    shard = Varchar(length=48, index=True)
    reason = Integer()
    feed = BigInt(index=True)
    profile_version = Integer(default=1)


class CrlShard(Table, db=UNBOUND, tablename="shard"):
    """A part of an authority's certificates with a CRL of its own; `id` is `AUTHORITY.NUMBER`.

    `reserved` counts the places given to issuing processes, at most 5,000 ever, so no CRL can hold more. `revision`
    moves with every revocation, in its transaction; `published_revision` is the one that the published CRL shows.
    `crl_number` is the highest that was drawn, `published_number` the one that is published.
    """

    id = Varchar(length=48, primary_key=True)
    authority = Varchar(length=AUTHORITY, index=True)
    number = Integer()
    reserved = Integer()
    revision = BigInt()
    published_revision = BigInt(default=-1)
    crl_number = BigInt()
    published_number = BigInt()
    next_publish_at = Timestamptz(null=True, default=None, index=True)


class Crl(Table, db=UNBOUND, tablename="crl"):
    """A published CRL; `id` is `SHARD:NUMBER`. The newest and the ones before it, for the check of continuity."""

    id = Varchar(length=80, primary_key=True)
    shard = Varchar(length=48, index=True)
    number = BigInt()
    this_update = Timestamptz(default=None)
    next_update = Timestamptz(default=None)
    entries = Integer()
    data = Bytea()


class Enrolment(Table, db=UNBOUND, tablename="enrolment"):
    """A one-time secret for a service's first certificate over EST; only its hash is kept."""

    id = Varchar(length=ID, primary_key=True)
    service = Varchar(length=ID, index=True)
    secret_hash = Varchar(length=ID, unique=True)
    created_by = Varchar(length=128)
    created_at = Timestamptz(default=None)
    expires_at = Timestamptz(default=None)
    used_at = Timestamptz(null=True, default=None)
    csr_sha256 = Varchar(length=ID)


class ServiceHost(Table, db=UNBOUND, tablename="service_host"):
    """A DNS or IP name of a service's listener, set at `cascade init`. `position` keeps the order in certificates."""

    id = Varchar(length=320, primary_key=True)
    service = Varchar(length=ID, index=True)
    kind = Varchar(length=4)
    value = Varchar(length=253)
    position = Integer()


class Audit(Table, db=UNBOUND, tablename="audit"):
    """Every decision and refusal, and by whom. Issuances are their own record."""

    id = Varchar(length=ID, primary_key=True)
    at = Timestamptz(default=None)
    caller = Varchar(length=128)
    action = Varchar(length=32)
    tenant = Varchar(length=ID)
    node = Varchar(length=ID, index=True)
    generation = BigInt()
    object = Varchar(length=128, index=True)
    outcome = Varchar(length=16, default="done")
    detail = Text()
