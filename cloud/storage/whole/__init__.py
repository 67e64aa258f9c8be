"""Storage of whole databases: snapshots of all tables, and the filling of an empty database."""
