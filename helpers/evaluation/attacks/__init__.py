"""Attempts to get secrets out of a model."""
