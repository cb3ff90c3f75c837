"""Load tests of a gateway or a model server: locust users and a shape, and the benchmark harness.

`users` and `shapes` are locust files (`locust -f .../users.py,.../shapes.py --host URL`); `bench`
measures in a closed loop, against the same model in process, in one run.
"""
