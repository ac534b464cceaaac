"""The access rule, as a method option of protos."""
