"""HTTP in: who may call, problem documents, the application factory, metrics, limits of the protocol."""
