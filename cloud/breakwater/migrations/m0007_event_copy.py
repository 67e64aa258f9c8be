"""Migration: the table of the copy of events to NATS."""

from cloud.events.schema import COPY

STEPS = COPY
