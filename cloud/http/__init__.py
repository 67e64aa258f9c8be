"""HTTP for services: admission of callers, problem documents, the application factory, metrics, protocol limits."""
