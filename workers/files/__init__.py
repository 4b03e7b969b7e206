"""Model files on this machine: pulled once, verified, then never changed."""
