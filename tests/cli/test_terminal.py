"""What a person sees: in a terminal of its own."""

import os
import re
import signal
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals there")


@pytest.fixture
def terminal(start, tmp_path, monkeypatch):
    """Run `numtx` in a pseudo terminal of 80 columns: (exit code, everything that was written)."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def run(*arguments, at: str = "", number: int = 0):
        """Send a signal when `at` has been written."""
        import pty

        ours, theirs = pty.openpty()
        ran = start(*arguments, cwd=tmp_path, stdout=theirs, stderr=theirs, stdin=theirs)
        os.close(theirs)
        written = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux says so at the end
                break
            if not piece:
                break
            written += piece
            if number and at in written.decode(errors="replace"):
                ran.send_signal(number)
                number = 0
        os.close(ours)
        return ran.wait(), written.decode()

    return run


def test_a_bar_moves_while_a_model_is_trained(terminal, tiny):
    code, written = terminal("train", "--out", "run", *tiny, "--steps", 300, "--eval-every", 100)
    assert code == 0
    assert "━" in written
    assert re.search(r"step \d+/300  loss \d\.\d{3}  [\d,]+ tokens/s  \d:\d\d left", written)
    assert "\x1b[?25h" in written  # the cursor is back
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", written)
    assert "a sample:" in plain
    assert "error" not in plain


def test_ctrl_c_is_answered_at_once_and_says_how_to_go_on(terminal, tiny):
    code, written = terminal("train", "--out", "run", *tiny, "--steps", 2000, at="left", number=signal.SIGINT)
    assert code == 130
    assert "stopping, saving" in written
    assert "to go on: numtx train --resume run" in re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", written)


def test_an_error_takes_the_bar_away(terminal, tiny):
    code, written = terminal("train", "--out", "run", *tiny, "--steps", 400, "--lr", 1e30)
    assert code == 1
    assert "\x1b[?25h" in written
    assert "Traceback" not in written
    assert re.search(r"error: .*finite", written)


def test_check_fits_a_terminal(terminal):
    code, written = terminal("check", "MultiHeadAttention", "--draws", 1)
    assert code == 0
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", written)
    assert "in_proj_weight" in plain
    assert all(len(line) <= 80 for line in plain.replace("\r", "\n").split("\n"))
