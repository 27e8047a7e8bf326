"""Pictures of the cube arm: looks, and a renderer on the device and on the host."""
