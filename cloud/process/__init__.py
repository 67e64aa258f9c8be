"""One operating-system process: settings and production gates, listeners, shutdown, logs."""
