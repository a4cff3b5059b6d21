"""A gRPC server that is asked how it is: its service `story` serves, until SIGUSR1; and again from SIGUSR2 on."""

import signal
import sys
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

says = health_pb2.HealthCheckResponse
states = {signal.SIGUSR1: says.NOT_SERVING, signal.SIGUSR2: says.SERVING}
# Before any thread starts: signals are taken one by one below and interrupt nobody.
signal.pthread_sigmask(signal.SIG_BLOCK, states)

servicer = health.HealthServicer()
servicer.set("story", says.SERVING)
server = grpc.server(futures.ThreadPoolExecutor(4))
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
server.add_insecure_port(f"127.0.0.1:{int(sys.argv[1])}")
server.start()
while True:
    servicer.set("story", states[signal.sigwait(states)])
