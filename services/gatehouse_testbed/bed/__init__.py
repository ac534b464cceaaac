"""The test bed: a counterpart for the tests of other programs."""
