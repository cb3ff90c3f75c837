"""Monitors that consume inference records: drift, performance, data quality."""
