"""Values: the names of the stream, of its subjects, and of the requests about it. Everything that NATS stores is here."""

STREAM = "CASCADE_EVENTS"
EVENTS = "cascade"
"""First part of the subjects in the stream."""
RINGS = "cascade_rings"
"""First part of the subjects of doorbells, which no stream has."""
CONSUMERS_OF = "fabric"
"""The service that has the tenants, and so their consumers."""
API = "$JS.API"
ANSWERS = "_INBOX"


def of_tenant(tenant: str) -> str:
    """Return the subjects of all events of a tenant."""
    return f"{EVENTS}.{tenant}.>"


def next_of(consumer: str) -> str:
    """Return the subject of a request for a consumer's next events."""
    return f"{API}.CONSUMER.MSG.NEXT.{STREAM}.{consumer}"


def acknowledgement_of(consumer: str) -> str:
    """Return the subjects on which a consumer acknowledges events."""
    return f"$JS.ACK.{STREAM}.{consumer}.>"


def answers_of(name: str) -> str:
    """Return the subjects of the answers to a consumer or a service."""
    return f"{ANSWERS}.{name}.>"


def service_publishes(service: str) -> tuple[str, ...]:
    """Return the subjects on which a service may send: its own events and rings, and the requests of the copier."""
    consumers = (
        *(f"{API}.CONSUMER.{verb}.{STREAM}.>" for verb in ("CREATE", "DELETE", "INFO")),
        f"{API}.CONSUMER.NAMES.{STREAM}",
    )
    return (
        f"{EVENTS}.*.{service}.>",
        f"{RINGS}.{service}",
        *(f"{API}.STREAM.{verb}.{STREAM}" for verb in ("CREATE", "UPDATE", "INFO")),
        *(consumers if service == CONSUMERS_OF else ()),
    )


def service_hears(service: str) -> tuple[str, ...]:
    """Return the subjects on which a service may receive: rings of all services, and its own answers."""
    return (f"{RINGS}.*", answers_of(service))
