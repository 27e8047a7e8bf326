"""Pictures of the board: looks, and a renderer on the device and on the host."""
