"""From a frozen encoder of pictures to a language model that speaks: the small network between."""

NAMES = ("connector-*",)
