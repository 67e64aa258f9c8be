"""Values: limits of the protocol between node and cloud: sizes, counts and waits, with unit and reason.

A limit is here also if one side alone enforces it. A limit of one side's own work is in the module that uses it.
"""

from datetime import timedelta

# Sizes, in bytes.
REQUEST_BODY_BYTES_MAX = 64 * 1024
"""Eight times the size of a proof with an RSA EK certificate, which is about 8 kB."""
RESPONSE_BODY_BYTES_MAX = 1024 * 1024
"""The largest answer is a page of nodes. A server that sends more is broken or hostile."""
ENVELOPE_BYTES_MAX = 32 * 1024
"""The largest lease stays below: 17 kB of entitlements, 3 kB of fingerprint policy and 3 kB of other fields, which
base64 makes a third longer."""
ENTITLEMENTS_BYTES_MAX = 17 * 1024
"""The entitlements of a lease in JSON, in UTF-8. 256 names of 64 ASCII characters have 16.8 kB."""
EK_CERTIFICATE_BYTES_MAX = 4096
"""Real EK certificates have 0.9 to 1.6 kB. The NV memory of a TPM holds 2 to 4 kB at most."""
EK_CHAIN_BYTES_MAX = 12 * 1024
"""CA certificates in the NV memory of a TPM, all together. On-die CAs of Intel store three to five, of 1 kB or less."""
EK_CHAIN_CERTIFICATES_MAX = 8
OTHER_ENDORSEMENTS_MAX = 2
"""Endorsement keys beside the first one: there are three types."""
TPM_STRUCTURE_BYTES_MAX = 2048
"""A TPM2B_PUBLIC of RSA-2048 has 316 bytes."""
CSR_BYTES_MAX = 4096
TRUST_ROOT_BYTES_MAX = 64 * 1024
"""Bound of a TUF root. A root with a dozen keys has 6 kB."""
TRUST_TIMESTAMP_BYTES_MAX = 16 * 1024
TRUST_SNAPSHOT_BYTES_MAX = 64 * 1024
TRUST_TARGETS_BYTES_MAX = 256 * 1024
"""Bound of the TUF targets metadata, and of each target. A bundle of 100 certificates has 100 kB. The signed length
bounds each file as well; this limit catches a signer's mistake."""
AIRGAP_REQUEST_BYTES_MAX = 128 * 1024
"""A request of a node without a network: a statement of 32 kB and EK certificates of 22 kB in base64 at most, twice."""
AIRGAP_ANSWER_BYTES_MAX = 1024 * 1024
"""An answer: a statement, certificates, and files of the published trust. Usual are 5 to 40 kB."""
AIRGAP_CARRIED_BYTES_MAX = 2 * 1024 * 1024
"""A file with a request or an answer in any form. Text takes 1.7 times the size of its content."""
NONCE_BYTES_MIN = 16
NONCE_BYTES_MAX = 128
RENEWAL_TOKEN_CHARS_MAX = 128
"""A renewal token has 58 characters. The rest leaves room for a later format."""

# Counts.
ENTITLEMENTS_MAX = 256
ENTITLEMENT_NAME_CHARS_MAX = 64
ATTRIBUTES_MAX = 16
"""Attributes of one entitlement."""
ATTRIBUTE_NAME_CHARS_MAX = 64
ATTRIBUTE_VALUE_CHARS_MAX = 256
NOTIFY_DATES_MAX = 8
"""Dates of notification in a lease."""
REASON_CHARS_MAX = 200
"""Reason of a final lease. It is one line of a terminal."""
COMPONENTS_MAX = 32
"""Components of a fingerprint. A machine sends at most 16 network cards and 6 disks (`node.hwbind.fingerprint`)."""
COMPONENT_CHARS_MAX = 64
"""Longest name of a fingerprint component, and longest value: an HMAC-SHA-256 in hex."""
AGENT_VERSION_CHARS_MAX = 256
PCR_FAULT_CHARS_MAX = 256
"""Longest reason why a TPM made no PCR quote."""
ID_CHARS_MAX = 64
"""Longest text that is read as an id. An id has a prefix and 26 letters."""
CODE_CHARS_MAX = 256
"""An activation code has less than 100 characters."""
NAME_CHARS_MAX = 128
"""Names of tenants, codes and tokens."""
TRUST_ROOT_ROTATIONS_MAX = 64
"""TUF roots between the pin and the newest root; 64 years with one rotation a year."""
SEATS_MAX = 1_000_000
HELD_GENERATION_MAX = 1_000_000
"""Highest generation that a machine may report at its activation. More activations of one chip are a fault."""
SEQ_MAX = 2**53 - 1
"""Largest `epoch` or `seq`. Every JSON reader represents it exactly."""
LIMIT_MAX = 2**53 - 1
"""Largest limit of an entitlement. Every JSON reader represents it exactly."""
SEQ_JUMP_MAX = 1_000_000
"""How far a `seq` may be ahead of the stored one. The cloud checks presented statements, the node new ones."""

# Waits and lives.
CHALLENGE_LIFE = timedelta(minutes=10)
"""A slow TPM needs seconds. Ten minutes leave time for a reboot."""
CHALLENGE_TRIES_MAX = 3
CONFIRM_WITHIN = timedelta(hours=24)
"""A node must confirm within this time after its device certificate is issued; otherwise the activation lapses."""
APPROVE_WITHIN = timedelta(days=14)
"""An operator must approve a waiting activation within this time, and the machine must return within this time after the
approval. It covers a fortnight's holiday."""
APPROVAL_RETRY_SECONDS_MIN = 10
APPROVAL_RETRY_SECONDS_MAX = 300
"""Bounds of the time after which a machine asks again whether its activation is approved. It grows with the wait."""
NONCE_LIFE = timedelta(minutes=5)
SESSION_LIFE_MAX = timedelta(hours=12)
DEVICE_LIFE_AFTER_TERMINATION = timedelta(days=30)
"""A device certificate expires at least this long after the lease's `terminate_at`, so it never expires before the
licence."""
CLOCK_SKEW = timedelta(minutes=5)
"""The validity of certificates and leases begins this long before their issue."""
EVENT_WAIT_SECONDS_MAX = 250
"""Longest long poll. Common proxies cut an idle exchange at 300 s."""
WAKE_SECONDS_MIN = 8
"""Shortest long poll that a cloud may set. A shorter one would cost more than the heartbeat."""
HEARTBEAT_SECONDS_MIN = 30
HEARTBEAT_SECONDS_MAX = 24 * 3600
"""Bounds of the heartbeat slot that a cloud may set for a node. The shortest one is a twentieth of the agent's own 600 s.
The longest one is the time after which a lease of the tier `attested` is refreshed."""
LICENSE_ANSWER_LIFE = timedelta(seconds=60)
"""Licensed software may use the socket's last answer this long, so that it keeps running while the agent restarts."""
TRUST_STEP_SECONDS_MAX = 10.0
"""One connect, read or write of an update from the trust repository."""
TRUST_UPDATE_SECONDS_MAX = 60.0
"""All requests of one update together: about eight small files, with time for a satellite link."""
