"""``genie top``: the fleet at work, live on one screen."""
