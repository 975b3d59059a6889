"""What still works when the interpreter ends and has cleared the globals of the package."""

from __future__ import annotations

import pytest

from dialing import run_python

LATE = """
import os, socket, sys, httpx_net

class Late:
    def __init__(self, stream, write=os.write, fstat=os.fstat):
        self.stream, self.write, self.fstat = stream, write, fstat
        self.number = stream.get_extra_info("socket").fileno()
    def __del__(self):
        {act}
        try: self.fstat(self.number)
        except OSError: self.write(1, b"closed")

ours, theirs = socket.socketpair()
sys.late = Late(httpx_net.NetworkStream(ours))
"""


@pytest.mark.parametrize(
    "act", ["self.stream.close(); self.stream.close()", "del self.stream"], ids=["close", "forget"]
)
def test_a_late_finalizer_closes_a_stream_or_lets_it_be_collected(act: str) -> None:
    assert run_python(LATE.format(act=act)) == "closed"
