"""Where arrays live: the device mesh, the logical names of their axes, and the table from names to mesh axes."""
