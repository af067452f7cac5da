"""What is asked of SB3's policies, in one place: networks, distributions, views, spaces."""
