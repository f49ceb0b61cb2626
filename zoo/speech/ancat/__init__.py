"""ANCAT: a recogniser whose frames decide how far they look ahead."""

NAMES = ("ancat-*",)
