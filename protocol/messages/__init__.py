"""Bodies of requests and answers: activation, sessions, renewal, EST."""
