"""Model serving and monitoring for KServe that closes its own loop."""
