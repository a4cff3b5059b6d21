"""A gRPC server that says how it is, by gRPC's health protocol: "well" is, "ill" is not, others it does not know."""

import sys
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

server = grpc.server(futures.ThreadPoolExecutor(4))
state = health.HealthServicer()
state.set("", health_pb2.HealthCheckResponse.SERVING)
state.set("well", health_pb2.HealthCheckResponse.SERVING)
state.set("ill", health_pb2.HealthCheckResponse.NOT_SERVING)
health_pb2_grpc.add_HealthServicer_to_server(state, server)
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
