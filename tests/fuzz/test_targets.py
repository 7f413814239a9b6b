"""The targets over their corpus, and over a few inputs mutated from it: the same ones every time."""

from __future__ import annotations

import random

import pytest

from tests.fuzz import corpus, trial
from tests.fuzz.targets import TARGETS

MUTATIONS = 300
SLOW = {"request": 60, "http-connection": 60}


@pytest.mark.parametrize("name", TARGETS)
def test_corpus_shows_no_fault(name: str) -> None:
    for data in (*TARGETS[name].seeds, *corpus.load(name)):
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_show_no_fault(name: str) -> None:
    target = TARGETS[name]
    inputs = [*target.seeds, *corpus.load(name)]
    chance = random.Random(name)
    for _ in range(SLOW.get(name, MUTATIONS)):
        target.run(corpus.mutated(chance, inputs, target.words))


def test_corpus_is_of_targets_there_are_and_small() -> None:
    files = list(corpus.FOLDER.glob("*"))
    assert {path.stem for path in files} <= TARGETS.keys()
    assert sum(path.stat().st_size for path in files) < 1 << 20


@pytest.mark.parametrize("data", [b"", b"a\nb\\x00", bytes(range(256)), b"\\u1234"])
def test_corpus_reads_what_it_wrote(data: bytes, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "FOLDER", tmp_path)
    corpus.save("x", [data, b"longer than the others" * 50])
    assert corpus.load("x")[0] == data or not data


def _hates_x(data: bytes) -> None:
    if b"x" in data:
        raise KeyError(data)


def test_the_shortest_input_that_shows_a_fault_is_found() -> None:
    assert isinstance(trial.fault_of(_hates_x, b"a" * 50 + b"x" + b"b" * 99), KeyError)
    assert trial.shortest(_hates_x, b"a" * 50 + b"x" + b"b" * 99, 10.0) == b"x"
    assert trial.fault_of(_hates_x, b"a") is None


def test_an_input_that_takes_too_long_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "INPUT_CPU_S", 0.05)

    def never(data: bytes) -> None:
        while True:
            try:
                pass
            except Exception:
                pass

    assert isinstance(trial.fault_of(never, b""), trial.TooSlow)
