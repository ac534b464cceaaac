"""Fuzzing of everything that parses input: `make fuzz` generates inputs, `make test` replays the corpus."""
