"""Values: the files of the keys of NATS accounts, in the folder of Fabric's keys."""

SERVICES_KEY = "nats-services.pem"
"""The key of the account of the services. It signs the services' credentials."""
CONSUMERS_KEY = "nats-consumers.pem"
"""The key of the account of the consumers. It signs the credentials of tenants' consumers."""
