"""Everything that travels between the SDK, the cloud and a worker, as frozen values.

Three modules by conversation: ``model`` (what a catalog says of a model),
``inference`` (one request and its answer), ``fleet`` (registration, heartbeat,
directives). `genie.contracts.codec` turns any of them into JSON and back: unknown
fields are ignored, missing ones take their default, and defaults are not written.
"""
