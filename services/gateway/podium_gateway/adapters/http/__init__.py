"""The OpenAI-compatible edge: HTTP and JSON in front of the use cases that gRPC has. See docs/adr/0019."""
