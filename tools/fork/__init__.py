"""Write a new repository from this one, under another name: `make fork NAME=acme-billing`."""
