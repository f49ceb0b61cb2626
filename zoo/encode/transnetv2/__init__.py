"""TransNet V2: cuts between shots."""

NAMES = ("transnetv2",)
