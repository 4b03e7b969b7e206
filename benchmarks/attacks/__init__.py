"""Programs that attack the web server, or compare it with the one before."""
