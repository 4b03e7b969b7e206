"""The verbs of the API as `genie.calls.Steps`: asking, work, administration. Pure."""
