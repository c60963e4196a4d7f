"""Backends: libraries that pack the weights of a model for deployment."""
