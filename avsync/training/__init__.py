"""Training, the published networks and their losses: the only rooms that need torch."""
