"""Migration: the tables of events."""

from cloud.events.schema import EVENTS

STEPS = EVENTS
