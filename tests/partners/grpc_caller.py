"""Calls the service of grpc_service.py through the tunnel: `grpc_caller.py HOST:PORT`. One line for each promise kept."""

import sys
import threading
import time

import grpc

channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.max_receive_message_length", -1)])
SECONDS = 15


def method(kind, name):
    return getattr(channel, kind)(f"/e2e.Partner/{name}")


answer, call = method("unary_unary", "Unary").with_call(b"hello", timeout=SECONDS, metadata=(("x-ask", "42"),))
assert answer == b"hello|42", answer
big = bytes(3_000_000)
assert method("unary_unary", "Unary")(big, timeout=SECONDS) == big + b"|"
assert method("unary_unary", "Unary")(b"", timeout=SECONDS) == b"|"
print("ok unary")
trailing = dict(call.trailing_metadata())
assert trailing["x-end"] == "yes" and trailing["x-bytes-bin"] == b"\x00\xff", trailing
print("ok metadata")
pieces = list(method("unary_stream", "Down")(b"500", timeout=SECONDS))
assert pieces == [b"piece %d" % at for at in range(500)]
print("ok server streaming")
assert method("stream_unary", "Up")(iter([b"x" * 1000] * 500), timeout=SECONDS) == b"500000"
print("ok client streaming")


class Turns:
    """Sends a word only once the one before has come back."""

    def __init__(self, words):
        self.words, self.turn = words, threading.Semaphore(1)

    def __iter__(self):
        for word in self.words:
            assert self.turn.acquire(timeout=SECONDS), "nothing came back"
            yield word


words = [b"word %d" % at for at in range(50)]
turns = Turns(words)
back = []
for word in method("stream_stream", "Both")(iter(turns), timeout=SECONDS):
    back.append(word)
    turns.turn.release()
assert back == [word[::-1] for word in words], back
print("ok both ways")
try:
    method("unary_unary", "Fail")(b"", timeout=SECONDS)
    raise AssertionError("it did not fail")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "not while it rains \u2614", error
    assert dict(error.trailing_metadata())["x-why"] == "because", error
print("ok error")
began = time.monotonic()
try:
    method("unary_unary", "Slow")(b"", timeout=0.5)
    raise AssertionError("it did not end")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert time.monotonic() - began < 5
print("ok deadline")
stream = method("unary_stream", "Ticks")(b"", timeout=SECONDS)
assert [next(stream) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
stream.cancel()
print("ok cancel")
