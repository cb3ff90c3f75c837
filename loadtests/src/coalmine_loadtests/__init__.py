"""Load against a Coalmine gateway: locust users and shapes, and the benchmark harness."""
