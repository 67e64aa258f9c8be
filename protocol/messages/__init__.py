"""Messages: bodies of requests and answers of activation, sessions, renewal and EST."""
