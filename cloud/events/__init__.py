"""Facts for other services: outbox, change feed and snapshot of a producer; follower; doorbells."""
