"""The cube arm: a gripper and up to four cubes, as in OGBench's visual-cube."""
