"""A gRPC server, and a client that says as JSON what it got. No generated code: messages are bytes."""

import json
import sys
from concurrent import futures

import grpc

BYTES = {"request_deserializer": lambda data: data, "response_serializer": lambda data: data}


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("first", "sent before"),))
    context.set_trailing_metadata((("last", "sent after"), ("echo", metadata.get("word", ""))))
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you asked: 100 % no")
    return request


def down(request, context):
    for number in range(int(request)):
        yield b"%d" % number
    context.set_trailing_metadata((("last", "after the stream"),))


def up(requests, _):
    return b"%d" % sum(len(request) for request in requests)


def both(requests, _):
    yield from requests


def serve(port):
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary, **BYTES),
        "Down": grpc.unary_stream_rpc_method_handler(down, **BYTES),
        "Up": grpc.stream_unary_rpc_method_handler(up, **BYTES),
        "Both": grpc.stream_stream_rpc_method_handler(both, **BYTES),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 1 << 25)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("story.Echo", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def call(port):
    options = [("grpc.max_receive_message_length", 1 << 25), ("grpc.enable_http_proxy", 0)]
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
    told = {}

    answer, rpc = channel.unary_unary("/story.Echo/Unary").with_call(b"hi", metadata=(("word", "w"),), timeout=10)
    told["unary"] = answer.decode()
    told["initial"] = dict(rpc.initial_metadata()).get("first")
    told["trailing"] = {key: value for key, value in rpc.trailing_metadata()}

    try:
        channel.unary_unary("/story.Echo/Unary")(b"fail", timeout=10)
    except grpc.RpcError as error:
        told["failure"] = [error.code().name, error.details()]

    big = b"x" * (1 << 22)
    told["big"] = channel.unary_unary("/story.Echo/Unary")(big, timeout=20) == big

    stream = channel.unary_stream("/story.Echo/Down")(b"500", timeout=20)
    told["down"] = [int(part) for part in stream] == list(range(500))
    told["down_trailing"] = dict(stream.trailing_metadata()).get("last")

    told["up"] = int(channel.stream_unary("/story.Echo/Up")((b"x" * 1000 for _ in range(500)), timeout=20))

    # Each word is sent only after the answer to the one before has come: nothing may be held back.
    words = iter(["one", "two", "three"])
    heard = []
    ready = futures.Future()

    def say():
        nonlocal ready
        for word in words:
            yield word.encode()
            ready.result(10)
            ready = futures.Future()

    for answer in channel.stream_stream("/story.Echo/Both")(say(), timeout=20):
        heard.append(answer.decode())
        ready.set_result(None)
    told["both"] = heard
    print(json.dumps(told))


def refused(port):
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)])
    try:
        channel.unary_unary("/story.Echo/Unary")(b"hi", timeout=10)
        print(json.dumps({"code": "OK", "details": ""}))
    except grpc.RpcError as error:
        print(json.dumps({"code": error.code().name, "details": error.details()}))


{"serve": serve, "call": call, "refused": refused}[sys.argv[1]](int(sys.argv[2]))
