"""Transformers for Coalmine: arrays in, arrays out, with a declared schema."""
