"""Pictures of Push-T: looks, and a renderer on the device and on the host."""
