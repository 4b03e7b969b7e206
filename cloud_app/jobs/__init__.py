"""Jobs: admitted, submitted, streamed, resumed, ended, retried."""
