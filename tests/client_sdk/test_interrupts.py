"""Ctrl-C while a site waits for an answer."""

from __future__ import annotations

import subprocess
import sys

_WAITS = """
import os, signal, socket, sys, threading, time
from client_sdk._net.budget import Budget
from client_sdk._net.lines import TcpLine

listener = socket.create_server(("127.0.0.1", 0))
budget = Budget(60.0, 1e6)
line = TcpLine("127.0.0.1", listener.getsockname()[1], budget)

def interrupt():
    time.sleep(0.5)  # it waits by then
    os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have had it ignored
try:
    threading.Thread(target=interrupt, daemon=True).start()
    # The kernel hands the signal to the thread that takes it, so nothing wakes the one that waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    line.receive(memoryview(bytearray(10)))
except KeyboardInterrupt:
    print("interrupted, and", "not waited" if budget.left() > 20 else "waited", "to the end")
"""


def test_a_signal_that_wakes_nobody_is_heard_of_soon():
    result = subprocess.run(
        [sys.executable, "-c", _WAITS],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={"PATH": "/usr/bin"},
    )
    assert result.stdout == "interrupted, and not waited to the end\n"
