"""No sequence of faults and valid documents leads to a wrong licence (`tests/node/licensing/decision.py`)."""

import os

from hypothesis import settings

from tests.node.licensing.decision import Decision

QUICK = os.environ.get("CASCADE_QUICK") == "1"
"""`make unit` tries a few examples, `make test` some more. `make drills PART=properties` tries 10,000."""

TestDecision = Decision.TestCase
# The same examples in each run. The drill `properties` looks for new ones.
TestDecision.settings = settings(max_examples=6 if QUICK else 24, stateful_step_count=20, derandomize=True)
