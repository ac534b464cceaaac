"""PublicService: what this system is and how to get in."""
