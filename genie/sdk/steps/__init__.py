"""The verbs of the API as `genie.sdk.requests.Steps`. Pure."""
