"""``genie top``: the fleet as it works, on one screen."""
