"""The least that a grpc.aio server can do for a ranking: parse the request, answer the same list each time.

`python -m pipelines.bench.noop_server PORT ITEMS`; what `bench gateway` divides by.
"""

import asyncio
import sys

import grpc.aio
import uvloop
from millrace.ranking.v1 import ranking_pb2 as pb
from millrace.ranking.v1 import ranking_pb2_grpc


class _NoOp(ranking_pb2_grpc.RankingServiceServicer):
    def __init__(self, items: int) -> None:
        self._answer = pb.RankResponse(request_id=1, model_name="none", model_version=1)
        for position in range(1, items + 1):
            self._answer.items.add(item_id=position, score=0.5, position=position, reason="requested")

    async def Rank(self, request: pb.RankRequest, context: grpc.aio.ServicerContext) -> pb.RankResponse:  # noqa: ARG002, N802
        """The same answer, encoded anew."""
        return self._answer


async def serve(port: int, items: int) -> None:
    """Serve until killed, on the loopback interface."""
    server = grpc.aio.server()
    ranking_pb2_grpc.add_RankingServiceServicer_to_server(_NoOp(items), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
