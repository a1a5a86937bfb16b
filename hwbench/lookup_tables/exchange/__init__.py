"""Tables and logs that come from elsewhere, and the portable file."""
