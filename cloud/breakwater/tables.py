"""The tables of Breakwater. Only `store.py` reads and writes them.

Times are aware UTC. No foreign keys: a row names others by id, and the transactions in the store keep them in step.
"""

from piccolo.columns import BigInt, Bytea, Integer, Timestamptz, Varchar
from piccolo.table import Table

from cloud.storage import ServiceEngine

ENGINE = ServiceEngine("breakwater")

ID = 64


class Generation(Table, db=ENGINE, tablename="generation"):
    """A generation that was opened, or closed alone; `id` is node and number.

    It is open when neither `closed_at` nor `Closing` says otherwise.
    """

    id = Varchar(length=96, primary_key=True)
    tenant = Varchar(length=ID)
    node = Varchar(length=ID, index=True)
    generation = BigInt()
    opened_at = Timestamptz(default=None)
    closed_at = Timestamptz(default=None, null=True)


class Closing(Table, db=ENGINE, tablename="closing"):
    """Up to which generation a node is closed, opened ones or not; only ever grows."""

    node = Varchar(length=ID, primary_key=True)
    tenant = Varchar(length=ID)
    closed_up_to = BigInt()
    closed_at = Timestamptz(default=None)


class IssuedCertificate(Table, db=ENGINE, tablename="certificate"):
    """The record of an issuance, made before the CA key is used, and then the certificate. It is the audit too.

    `state`: recorded -> issued -> revoked, or recorded -> orphaned; an orphan counts as revoked and is never signed.
    `request_key` is caller and request id; an orphan gives it up, so that a repeat makes a new record.
    """

    serial = Varchar(length=40, primary_key=True)
    request_key = Varchar(length=256, unique=True, null=True, default=None)
    profile = Varchar(length=16)
    state = Varchar(length=16, index=True)
    tenant = Varchar(length=ID)
    node = Varchar(length=ID, index=True)
    generation = BigInt()
    service = Varchar(length=ID, index=True)
    spki_sha256 = Varchar(length=ID)
    tbs = Bytea()
    certificate = Bytea(null=True, default=None)
    not_before = Timestamptz(default=None)
    not_after = Timestamptz(default=None)
    caller = Varchar(length=128)
    recorded_at = Timestamptz(default=None)
    revoked_at = Timestamptz(null=True, default=None)


class ServiceHost(Table, db=ENGINE, tablename="service_host"):
    """A DNS or IP name of a service's listener, set at `cascade init`. `position` keeps the order in certificates."""

    id = Varchar(length=320, primary_key=True)
    service = Varchar(length=ID, index=True)
    kind = Varchar(length=4)
    value = Varchar(length=253)
    position = Integer()


class Audit(Table, db=ENGINE, tablename="audit"):
    """Opening and closing of generations, and by whom. Issuances are their own record."""

    id = Varchar(length=ID, primary_key=True)
    at = Timestamptz(default=None)
    caller = Varchar(length=128)
    action = Varchar(length=32)
    tenant = Varchar(length=ID)
    node = Varchar(length=ID, index=True)
    generation = BigInt()
