"""Values: the limits of Breakwater's routes by caller, with the reason of each number.

Fabric's orders have no limit here, because Fabric has limited the nodes that cause them. The limit of sessions by node
is in `cloud.breakwater.issuance.session_limits`, because the records of sessions are here.
"""

from cloud.http.admission import Bucket
from cloud.tasks.buckets import Rate

EST_FILES = Bucket(name="est-files", each=Rate(500, 0.1), whole=Rate(5_000, 0.02))
"""CA certificates and attributes for EST clients, which read each file once for a certificate."""
ENROLMENT = Bucket(name="enrolment", each=Rate(60, 1.0), whole=Rate(1_000, 0.1))
"""Services enrol once, with a secret that a person has made. The limits of failures and of each right
secret are in `cloud.breakwater.issuance.enrolment`."""
REENROLMENT = Bucket(name="reenrolment", each=Rate(120, 30.0), tenant=Rate(100_000, 0.02), whole=Rate(200_000, 0.01))
"""A node renews its device certificate twice a year, and a service its certificate once a month."""
PUBLIC = Bucket(name="public", each=Rate(1_000, 0.02), whole=Rate(5_000, 0.004))
"""CRLs and CA certificates: 50 a second for each source."""
OCSP = Bucket(name="ocsp", each=Rate(500, 0.02), whole=Rate(2_000, 0.005))
"""OCSP: 50 a second for each source, and 200 a second for all strangers. One answer takes about 2 ms."""
