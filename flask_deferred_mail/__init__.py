"""Deferred mail for Flask."""
