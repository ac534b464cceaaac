"""The composition root: the list of services, the settings composed of them, and what runs them."""
