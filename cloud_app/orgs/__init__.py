"""Orgs and the keys that open the API for them."""
