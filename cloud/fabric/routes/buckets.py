"""Values: the limits of Fabric's routes by caller, with the reason of each number.

The honest callers are: a site of 500 machines behind one address that activate at once; 10,000 nodes behind one address
that open sessions within three minutes after an outage; an operator's script that sends 100 requests a second. The
tests send exactly these, and none of them is refused.
"""

from cloud.http.admission import Bucket
from cloud.tasks.buckets import Rate

ACTIVATION = Bucket(name="activation", each=Rate(4_000, 0.1), whole=Rate(20_000, 0.01))
"""An activation takes two requests. A source starts 5 a second in the long run. The limits by code and by chip are in
`cloud.fabric.service.nodes.limits`."""
RENEWAL = Bucket(name="renewal", each=Rate(4_000, 0.05), whole=Rate(40_000, 0.01))
"""A renewal with TPM evidence takes two requests. Machines need one in several months."""
SESSION = Bucket(name="session", each=Rate(20_000, 0.01), whole=Rate(100_000, 0.002))
"""A session takes a nonce and a proof. The limits by node and tenant follow the check of the proof."""
NODE = Bucket(name="node", each=Rate(240, 0.2), tenant=Rate(200_000, 0.002), whole=Rate(400_000, 0.001))
"""Statements, confirmations and long polls of a node with a session certificate. An agent sends about ten requests at
its start, and two after each change of its standing."""
READ = Bucket(name="operator-read", each=Rate(4_000, 0.005), whole=Rate(10_000, 0.002))
"""Reads by an operator's token: 200 a second in the long run."""
WRITE = Bucket(name="operator-write", each=Rate(16_000, 0.1), whole=Rate(64_000, 0.02))
"""Changes by an operator's token: a script that makes 6,000 objects in a minute, and 10 changes a second in the long run.
Each change leaves rows for ever, so the long run is bounded."""
REPOSITORY = Bucket(name="repository", each=Rate(20_000, 0.01), whole=Rate(100_000, 0.001))
"""Files of the trust repository. An update reads about eight files, and an agent updates once a day."""
