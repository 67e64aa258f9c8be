"""Values: limits of the protocol between node and cloud: sizes, counts and waits, with unit and reason.

A limit is here also if one side alone enforces it. A limit of one side's own work is in the module that uses it.
"""

from datetime import timedelta

# Sizes, in bytes.
REQUEST_BODY_BYTES_MAX = 64 * 1024
"""A proof with an RSA EK certificate chain is about 8 kB; eight times that is generous and cheap to refuse."""
RESPONSE_BODY_BYTES_MAX = 1024 * 1024
"""The largest answer is a page of nodes; a server that sends more is broken or hostile."""
ENVELOPE_BYTES_MAX = 32 * 1024
"""A lease with 256 entitlements of 64 characters stays below 24 kB."""
EK_CERTIFICATE_BYTES_MAX = 4096
"""EK certificates in the field are 0.9 to 1.6 kB; TPM NV spaces hold no more than 2 to 4 kB."""
TPM_STRUCTURE_BYTES_MAX = 2048
"""A TPM2B_PUBLIC of RSA-2048 is 316 bytes; nothing marshalled by a TPM here exceeds its 4 kB buffer."""
CSR_BYTES_MAX = 4096
TRUST_ROOT_BYTES_MAX = 64 * 1024
"""Of a root of the trust repository; one with a dozen keys is 6 kB."""
TRUST_TIMESTAMP_BYTES_MAX = 16 * 1024
TRUST_SNAPSHOT_BYTES_MAX = 64 * 1024
TRUST_TARGETS_BYTES_MAX = 256 * 1024
"""Of the repository's targets metadata, and of each target: a bundle of 100 certificates is 100 kB. Signed lengths bound
each file too; this bounds what a signer may sign by mistake."""
NONCE_BYTES_MIN = 16
NONCE_BYTES_MAX = 128

# Counts.
ENTITLEMENTS_MAX = 256
ENTITLEMENT_NAME_CHARS_MAX = 64
COMPONENTS_MAX = 32
"""Components of a fingerprint; a server with more than 24 network cards sends the first by name."""
NAME_CHARS_MAX = 128
"""Names that people give to tenants, codes and tokens."""
TRUST_ROOT_ROTATIONS_MAX = 64
"""Roots between the pin and today. With one rotation a year the pin's root has long expired before."""
SEATS_MAX = 1_000_000
SEQ_MAX = 2**53 - 1
"""Largest `epoch` or `seq`: exact in every JSON reader."""
SEQ_JUMP_MAX = 1_000_000
"""How far a presented `seq` may lead the stored one before the cloud stops believing it."""

# Waits and lives.
CHALLENGE_LIFE = timedelta(minutes=10)
"""A slow TPM needs seconds; ten minutes allow a reboot in between."""
CHALLENGE_TRIES_MAX = 3
CHALLENGES_OPEN_PER_CODE_MAX = 64
"""A leaked code cannot fill the database; a site of 64 machines can still activate at once."""
CONFIRM_WITHIN = timedelta(hours=24)
"""After a device certificate is issued, the node must confirm within this time or the activation lapses."""
NONCE_LIFE = timedelta(minutes=5)
SESSION_LIFE_MAX = timedelta(hours=12)
DEVICE_LIFE_AFTER_TERMINATION = timedelta(days=30)
"""A device certificate outlives the lease's `terminate_at` by at least this: identity never dies before the licence."""
CLOCK_SKEW = timedelta(minutes=5)
"""Certificates and statements start this much before their issue."""
EVENT_WAIT_SECONDS_MAX = 250
"""Longest long poll; below the 300 s at which common proxies cut an idle exchange."""
LICENSE_ANSWER_LIFE = timedelta(seconds=60)
"""Licensed software keeps the socket's last answer this long: a restarted agent is no outage."""
TRUST_STEP_SECONDS_MAX = 10.0
"""One connect, read or write of an update from the trust repository."""
TRUST_UPDATE_SECONDS_MAX = 60.0
"""All requests of one update together: about eight small files, generous on a satellite link."""
