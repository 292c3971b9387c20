"""What lies in a frame: colours, depth, opacity, shape, and what of it is shown."""
