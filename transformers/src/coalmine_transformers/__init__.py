"""Transformers for Coalmine: arrays in, arrays out, with a declared schema.

A transformer turns what clients send into what a model takes. The service file names its class
(`module:Class`); the model server makes one object of it and calls it for every request.
"""

from coalmine_transformers._base import Transformer

__all__ = ["Transformer"]
