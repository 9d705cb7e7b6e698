"""Postman."""
