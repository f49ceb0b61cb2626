"""Shell completion: what a shell offers after a press of TAB, asked of the shells that are here."""

import os
import shutil
import subprocess

import pytest

from streamzoo.streaming import cli, completion

MODELS = ("dsta-lite0/ucf11", "dsta-lite0/ut", "tsa-s16")
# what is typed -> what is offered, in a folder that holds street.mp4 and the folder states
TYPED = {
    "streamzoo wat": {"watch"},
    "streamzoo watch --rand": {"--random-weights"},
    "streamzoo watch str": {"street.mp4"},
    "streamzoo watch street.mp4 --model dsta-lite0/u": {"dsta-lite0/ucf11", "dsta-lite0/ut"},
    "streamzoo info tsa": {"tsa-s16"},
    "streamzoo bench tsa-s16 dsta-lite0/uc": {"dsta-lite0/ucf11"},
    "streamzoo serve --runtime o": {"onnxruntime", "openvino"},
    "streamzoo serve --store st": {"states"},
}

ASK = {
    "bash": """
source $1; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_streamzoo
printf '%s\\n' "${COMPREPLY[@]}"
""",
    "fish": "source $argv[1]; complete -C $argv[2]",
    # a terminal of its own, as zsh completes in an editor only; it lists when TAB is pressed twice
    "zsh": """
zmodload zsh/zpty; zpty -b shell zsh -i
until [[ $all == *READY* ]]; do zpty -r -t shell out && all+=$out; sleep 0.1; done
zpty -n -w shell "$2"$'\\t\\t'
all=; for n in {1..40}; do zpty -r -t shell out && all+=$out; sleep 0.05; done
print -r -- "$all"
""",
}
ZSHRC = """
fpath=($ZDOTDIR $fpath); PROMPT=; LISTMAX=1000; unset zle_bracketed_paste
autoload -Uz compinit; compinit -D -u; bindkey '^I' complete-word; print RE''ADY
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shell")
    (path / "street.mp4").touch()
    (path / "states").mkdir()
    (path / ".zshrc").write_text(ZSHRC)
    for shell, name in (("bash", "c.bash"), ("fish", "c.fish"), ("zsh", "_streamzoo")):
        (path / name).write_text(completion.script(cli.parser(), shell, MODELS))
    return path


def ask(shell, folder, script, *words):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    flag = {"zsh": ["-f"], "fish": ["--no-config"], "bash": ["--norc"]}[shell]
    name = {"zsh": ["zsh"], "bash": ["bash"], "fish": []}[shell]  # $0
    place = dict(PATH=os.environ["PATH"], HOME=str(folder), ZDOTDIR=str(folder), TERM="dumb")
    done = subprocess.run(
        [shell, *flag, "-c", ASK[shell], *name, str(folder / script), *words],
        cwd=folder, env=place, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize("typed", TYPED)
def test_bash_offers(typed, folder):
    assert set(ask("bash", folder, "c.bash", *typed.split(" ")).split()) == TYPED[typed]


@pytest.mark.parametrize("typed", TYPED)
def test_fish_offers(typed, folder):
    lines = ask("fish", folder, "c.fish", typed).splitlines()
    assert {line.partition("\t")[0].rstrip("/") for line in lines} == TYPED[typed]


@pytest.mark.parametrize("typed", [typed for typed in TYPED if "bench" not in typed])
def test_zsh_offers(typed, folder):
    """Of several names, as of `bench`, shtab lets zsh complete the first one only."""
    shown = ask("zsh", folder, "_streamzoo", typed)
    assert all(offer in shown for offer in TYPED[typed]), shown


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_command_prints_a_script_that_knows_the_models(shell, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--print-completion", shell])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "dsta-lite0/ucf11" in out and "snapshot-every" in out


def test_a_shell_that_is_not_known_is_told(capsys):
    assert cli.main(["--print-completion", "tcsh"]) == 2
    assert "bash" in capsys.readouterr().err


def test_what_is_completed_is_an_argument_of_some_command():
    arguments = list(completion._arguments(cli.parser()))
    assert {a.metavar for a in arguments} >= set(completion.VALUES)
    assert {a.dest for a in arguments} >= set(completion.MODELS)
