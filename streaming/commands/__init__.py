"""The commands of the command line, one file each: its summary, its options, its work."""
