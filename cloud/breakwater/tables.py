"""Values: the tables of Breakwater. Only the stores read and write them.

Times are aware UTC. There are no foreign keys: rows contain the ids of other rows, and the transactions of the stores
keep them consistent.
"""

from piccolo.columns import BigInt, Bytea, Integer, Text, Timestamptz, Varchar
from piccolo.table import Table

from cloud.storage import UNBOUND
from cloud.tasks.current_request import REQUEST_ID_CHARS

ID = 64
AUTHORITY = 32
INDEXES = (("certificate", "node", "recorded_at"),)
"""Indexes over several columns, which Piccolo's columns cannot say: the table, then the columns."""


class Authority(Table, db=UNBOUND, tablename="authority"):
    """One generation of a CA. `id` is class and number (`nodes-2`). `ca` is the class: root, nodes or services.

    `state` moves along prepared -> active -> old -> tainted -> revoked. At most one authority of a class is active.
    `key` is the reference of the private key (`file:NAME`, `pkcs11:LABEL`); it is empty for a root, whose key is
    offline.
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
    """A cross-certificate: the name and key of the root `subject`, signed by the root `issuer`. `id` is both."""

    id = Varchar(length=80, primary_key=True)
    subject = Varchar(length=AUTHORITY)
    issuer = Varchar(length=AUTHORITY)
    certificate = Bytea()


class Counter(Table, db=UNBOUND, tablename="counter"):
    """A counter that only grows and is changed under its row's lock.

    `authorities` counts changes of authorities. `identity` is the number of the services CA whose certificate Breakwater
    has published as its own. `events_seeded` is 1 when all objects from before the events have one.
    """

    name = Varchar(length=32, primary_key=True)
    value = BigInt()


class Generation(Table, db=UNBOUND, tablename="generation"):
    """A generation that was opened, or that was closed individually. `id` is node and number.

    It is open if `closed_at` is empty and the node's `closing` row, if any, has a lower `closed_up_to`.
    """

    id = Varchar(length=96, primary_key=True)
    tenant = Varchar(length=ID)
    node = Varchar(length=ID, index=True)
    generation = BigInt()
    opened_at = Timestamptz(default=None)
    closed_at = Timestamptz(default=None, null=True)


class Closing(Table, db=UNBOUND, tablename="closing"):
    """All generations of a node up to `closed_up_to` are closed, even those that were never opened. It only grows."""

    node = Varchar(length=ID, primary_key=True)
    tenant = Varchar(length=ID)
    closed_up_to = BigInt()
    closed_at = Timestamptz(default=None)


class IssuedCertificate(Table, db=UNBOUND, tablename="certificate"):
    """The record of an issuance. It is made before the CA key is used, gets the certificate later, and is its audit.

    `state` is first recorded and then issued or orphaned. From each of these it can become revoked. An orphan counts as
    revoked and never gets its certificate. `request_key` is the caller and the request id. An orphan loses its
    `request_key`, so that a repeat makes a new record. `authority` signs the certificate. `shard` is its CRL shard; it
    is empty for sessions and responders, which are in no CRL. `reason` is the CRLReason of RFC 5280.
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
    profile_version = Integer(default=1)


class CrlShard(Table, db=UNBOUND, tablename="shard"):
    """A group of an authority's certificates with a separate CRL. `id` is `AUTHORITY.NUMBER`.

    `reserved` counts the places that issuing processes have reserved, at most 5,000, so no CRL has more entries.
    `revision` rises in the transaction of each revocation. `published_revision` is the revision in the published CRL.
    `crl_number` is the highest drawn number, `published_number` the number of the published CRL.
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
    """A published CRL. `id` is `SHARD:NUMBER`. The checker compares the newest CRL with the stored ones before it."""

    id = Varchar(length=80, primary_key=True)
    shard = Varchar(length=48, index=True)
    number = BigInt()
    this_update = Timestamptz(default=None)
    next_update = Timestamptz(default=None)
    entries = Integer()
    data = Bytea()


class RootCrl(Table, db=UNBOUND, tablename="root_crl"):
    """A CRL of a root, signed in a ceremony. `id` is `AUTHORITY:NUMBER`. The newest is published, all are kept."""

    id = Varchar(length=80, primary_key=True)
    authority = Varchar(length=AUTHORITY, index=True)
    number = BigInt()
    this_update = Timestamptz(default=None)
    next_update = Timestamptz(default=None)
    entries = Integer()
    data = Bytea()


class Enrolment(Table, db=UNBOUND, tablename="enrolment"):
    """A one-time secret for a service's first certificate over EST. Only its hash is stored."""

    id = Varchar(length=ID, primary_key=True)
    service = Varchar(length=ID, index=True)
    secret_hash = Varchar(length=ID, unique=True)
    created_by = Varchar(length=128)
    created_at = Timestamptz(default=None)
    expires_at = Timestamptz(default=None)
    used_at = Timestamptz(null=True, default=None)
    csr_sha256 = Varchar(length=ID)


class ServiceHost(Table, db=UNBOUND, tablename="service_host"):
    """A DNS name or IP address in a service's certificates, set by `cascade init`. `position` is their order."""

    id = Varchar(length=320, primary_key=True)
    service = Varchar(length=ID, index=True)
    kind = Varchar(length=4)
    value = Varchar(length=253)
    position = Integer()


class Audit(Table, db=UNBOUND, tablename="audit"):
    """The audit of every decision and refusal, except issuances, which have their own records."""

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
    request = Varchar(length=REQUEST_ID_CHARS, default="")
