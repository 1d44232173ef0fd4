"""A gRPC service of plain bytes. Prints its port."""

import time
from concurrent import futures

import grpc


def unary(request, context):
    context.set_trailing_metadata((("x-end", "yes"), ("x-bytes-bin", b"\x00\xff")))
    got = dict(context.invocation_metadata())
    return request + b"|" + got.get("x-ask", "").encode()


def down(request, context):
    for at in range(int(request)):
        yield b"piece %d" % at


def up(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def both(requests, context):
    for request in requests:
        yield request[::-1]


def fail(request, context):
    context.set_trailing_metadata((("x-why", "because"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not while it rains \u2614")


def slow(request, context):
    while context.is_active():
        time.sleep(0.02)
    return b""


def ticks(request, context):
    at = 0
    while context.is_active():
        yield b"%d" % at
        at += 1
        time.sleep(0.02)


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Down": grpc.unary_stream_rpc_method_handler(down),
    "Up": grpc.stream_unary_rpc_method_handler(up),
    "Both": grpc.stream_stream_rpc_method_handler(both),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Ticks": grpc.unary_stream_rpc_method_handler(ticks),
}

server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("e2e.Partner", HANDLERS)])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
