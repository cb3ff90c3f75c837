"""Reference applications: complete model services, from raw input to retraining pipeline."""
