"""HTTP: parse, call one thing, answer. Every route is an Operation, from which the handlers and OpenAPI are made."""
