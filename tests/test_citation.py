"""CITATION.cff has what the Citation File Format 1.2.0 requires, and agrees with the package."""

import tomllib
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML reads CITATION.cff")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# keys of schema 1.2.0, those that are used or might be
KNOWN = set(
    "abstract authors cff-version commit contact date-released doi identifiers keywords license "
    "license-url message preferred-citation references repository repository-artifact "
    "repository-code title type url version".split()
)


def broken(text):
    """What is wrong with a citation file."""
    cff = yaml.safe_load(text)
    faults = [
        f"no {key}" for key in ("cff-version", "message", "title", "authors") if not cff.get(key)
    ]
    faults += [f"unknown key {key}" for key in set(cff) - KNOWN]
    for author in cff.get("authors") or ():
        person, entity = {"family-names", "given-names"} & set(author), "name" in author
        if bool(person) == entity:  # an entity has a name, a person has names
            faults.append(f"author {author}")
    if cff.get("type", "software") not in ("software", "dataset"):
        faults.append(f"type {cff['type']}")
    return faults


TEXT = (ROOT / "CITATION.cff").read_text()


def test_it_is_valid():
    assert broken(TEXT) == []


@pytest.mark.parametrize(
    "change", [("message:", "words:"), ("- name:", "- title:"), ("type: software", "type: book")]
)
def test_a_broken_one_is_seen(change):
    assert broken(TEXT.replace(*change))


def test_it_agrees_with_the_package():
    cff = yaml.safe_load(TEXT)
    assert str(cff["version"]) == PROJECT["version"] and cff["license"] == PROJECT["license"]
    assert cff["cff-version"] == "1.2.0"
    assert [set(author) for author in cff["authors"]] == [{"name"}]  # the project alone, no persons
