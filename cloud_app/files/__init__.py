"""Files of an org, and where their bytes are stored."""
