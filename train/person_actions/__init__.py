"""What tracked persons do: learned from the detector's maps along their tracks."""
