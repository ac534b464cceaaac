"""Calls of any RPC: forms made from descriptors, calls that run in the background, and their pages."""
