"""The one training loop, and the algorithms that are made of it."""
