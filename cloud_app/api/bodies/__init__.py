"""Bodies of answers: what handlers build, and what ``/openapi`` says of it.

Each is written once. A handler's return type is its description, and mypy holds the
handler to it.
"""
