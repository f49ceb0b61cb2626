"""The container's files, as far as they can be checked without an engine that builds them."""

import json
import re
import shlex
from pathlib import Path

import pytest

from streamzoo.streaming import cli
from streamzoo.streaming.serve import command

yaml = pytest.importorskip("yaml", reason="PyYAML reads compose.yaml")

ROOT = Path(__file__).parents[2]
ROOM = ROOT / "streaming/serve/container"
LINES = re.sub(r"\\\n", " ", (ROOM / "Dockerfile").read_text()).splitlines()
COMPOSE = yaml.safe_load((ROOM / "compose.yaml").read_text())
SERVICE = COMPOSE["services"]["streamzoo"]


def said(word):
    """What stands behind each line of the Dockerfile that begins with the word."""
    return [line.partition(" ")[2].strip() for line in LINES if line.startswith(word + " ")]


def extras():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["optional-dependencies"]


WORDS = {"Dockerfile": json.loads(said("CMD")[-1]), "compose.yaml": SERVICE["command"]}


@pytest.mark.parametrize("file", WORDS)
def test_the_command_is_one_that_serve_takes(file, tmp_path, monkeypatch):
    """Parsed by the command line itself; a token lets it listen on all addresses."""
    tokens = tmp_path / "streamzoo_token"
    tokens.write_text("a-token-of-some-length\n")
    monkeypatch.setenv("STREAMZOO_TOKEN", "another-token-of-some-length")
    words = [w.replace("/run/secrets", str(tmp_path)) for w in WORDS[file]]
    settings = command.settings_of(cli.parser().parse_args(words))
    assert (settings.host, settings.port) == ("0.0.0.0", 8765)
    assert settings.tokens and not settings.insecure
    assert str(settings.store) == "/data/states"


def test_lines_that_a_user_uncomments_are_good_too():
    text = (ROOM / "compose.yaml").read_text()
    more = re.sub(r"^( *)# (- --|args:|deploy:|  resources:|    reservations:|      devices:)",
                  r"\1\2", text, flags=re.M)  # fmt: skip
    service = yaml.safe_load(more)["services"]["streamzoo"]
    args = cli.parser().parse_args(service["command"])
    assert args.stream == ["gate=rtsp://camera.example/cam"]
    assert set(service["build"]["args"]["EXTRAS"].split(",")) <= set(extras())
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_extras_exist():
    (default,) = [line for line in said("ARG") if line.startswith("EXTRAS=")]
    named = default.removeprefix("EXTRAS=").split(",")
    text = (ROOM / "Dockerfile").read_text()
    named += [e for line in re.findall(r"EXTRAS=([\w,]+) \.", text) for e in line.split(",")]
    assert "serve" in named and "cuda13" in named and set(named) <= set(extras())


def test_it_runs_as_somebody_with_few_rights_who_owns_the_volume():
    (user,) = said("USER")
    assert user not in ("root", "0") and any(
        "useradd" in run and user in run for run in said("RUN")
    )
    assert LINES.index(f"USER {user}") < next(
        i for i, line in enumerate(LINES) if line.startswith("ENTRYPOINT")
    )
    assert any(f"--owner {user} /data" in run for run in said("RUN"))
    assert said("VOLUME") == ["/data"] and SERVICE["volumes"] == ["data:/data"]
    assert "data" in COMPOSE["volumes"]
    (environment,) = said("ENV")
    assert dict(w.split("=") for w in shlex.split(environment))["STREAMZOO_HOME"] == "/data/home"
    assert SERVICE["environment"]["STREAMZOO_HOME"] == "/data/home"


def test_the_token_is_a_secret_and_stands_in_no_file():
    (name,) = SERVICE["secrets"]
    assert f"--token-file=/run/secrets/{name}" in SERVICE["command"] and name in COMPOSE["secrets"]
    assert "STREAMZOO_TOKEN" not in SERVICE["environment"] and not said("ENV STREAMZOO_TOKEN")
    ignored = (ROOT / ".gitignore").read_text().split()
    assert COMPOSE["secrets"][name]["file"].removeprefix(".") in ignored


def test_the_health_check_asks_what_the_server_answers():
    (check,) = [line for line in LINES if line.startswith("HEALTHCHECK")]
    words = json.loads(check[check.index("[") :])
    assert words[:2] == ["python", "-c"]
    compile(words[2], "health", "exec")
    (url,) = re.findall(r"http://[^']+", words[2])
    app = (ROOT / "streaming/serve/app.py").read_text()
    port = WORDS["Dockerfile"][WORDS["Dockerfile"].index("--port") + 1]
    assert url == f"http://127.0.0.1:{port}/healthz" and '@app.get("/healthz")' in app
    assert said("EXPOSE") == [port] and SERVICE["ports"][0].endswith(f":{port}")


def test_what_is_copied_is_there_and_what_is_needed_is_not_left_out():
    (source, _) = said("COPY")[0].split()
    assert (ROOT / source / "pyproject.toml").is_file()
    left_out = (ROOM / "Dockerfile.dockerignore").read_text().split()
    assert not {"pyproject.toml", "README.md", "LICENSE", "zoo", "streaming", "*.md"} & {*left_out}
    assert SERVICE["build"]["context"] == "." and (ROOT / SERVICE["build"]["dockerfile"]).is_file()
    assert json.loads(said("ENTRYPOINT")[0]) == ["streamzoo"]
