"""The tour: checks a running system from the outside, through its public interfaces."""
