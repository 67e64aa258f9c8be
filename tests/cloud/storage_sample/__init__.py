"""A throw-away service: tables, app and migration, for the tests of the storage port."""
