"""Joins store and transports. Nothing in this folder knows of Flask."""
