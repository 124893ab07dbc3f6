"""The log of a run tells how each call ended."""

import signal

import pytest

from seggen_hf.process.stopping import Stopped
from seggen_hf.runs.folder import RunFolder
from seggen_hf.runs.log import RunLog


def lines(run):
    return [line.split(" ", 2)[2] for line in run.log.read_text().splitlines()]


def test_each_call_says_how_it_ended(tmp_path):
    run, said = RunFolder(tmp_path), []
    log = RunLog(run, said.append)
    with log.call():
        log.tell("text2mask: begins")
    with pytest.raises(ValueError, match="no labels"), log.call():
        raise ValueError("there are\nno labels")
    with pytest.raises(Stopped), log.call():
        raise Stopped(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), log.call():
        raise KeyboardInterrupt
    assert said == ["text2mask: begins"]
    assert lines(run) == [
        "text2mask: begins",
        "ended",
        "failed: ValueError: there are no labels",
        "stopped by SIGTERM; the same call goes on",
        "stopped by SIGINT; the same call goes on",
    ]


def test_a_call_that_was_killed_is_noted_by_the_next(tmp_path):
    run = RunFolder(tmp_path)
    RunLog(run, lambda line: None).tell("mask2img: begins")  # and nothing more
    for _ in range(2):
        log = RunLog(run, lambda line: None)
        assert len(lines(run)) in (1, 4)  # nothing is written by looking
        log.tell("mask2img: goes on")
        with log.call():
            pass
    assert lines(run) == [
        "mask2img: begins",
        "The earlier call was killed, or the machine went, after: mask2img: begins",
        *["mask2img: goes on", "ended"] * 2,
    ]
